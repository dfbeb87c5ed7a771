"""The Core ML part of an export: packages made, each verified by interpreting what was saved."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cdm_export.coreml.compress import check_compressions
from cdm_export.coreml.worker import CoremlJob, Integers, MadePackage, make_coreml
from cdm_export.exporter import REFERENCE, ExportJob
from cdm_export.onnx.worker import Made
from cdm_export.parity.check_backend import BackendParity, check_backend
from cdm_export.parity.golden import golden_records
from cdm_export.parity.image_input import ImageFrames, image_frames
from cdm_export.progress import Progress
from cdm_export.publish import record
from cdm_export.quantize.worker import MadeInt8
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Artifact, GraphInterface, State
from cdm_export.runtimes.contract import COMPRESSED, IMAGE, QUANTIZED, Precision
from cdm_export.runtimes.coreml_target import get_target
from cdm_export.runtimes.errors import BackendUnavailable, InputError
from cdm_export.runtimes.sources import FrameSource

VERIFIER = "coreml-reference"
"""Backend that verifies packages on the machine that makes them."""


@dataclass(frozen=True)
class CoremlRequest:
    """Which packages to make."""

    target: str
    """Oldest system that has to open them, by name in ``coreml_target.TARGETS``."""
    compressions: tuple[Precision, ...] = ()
    """Of ``contract.COMPRESSED``: made of the FP16 package; and ``QUANTIZED``, with the steps that INT8 was calibrated
    with. Published only where they pass their gate."""
    image: bool = False
    """A second FP16 package, which takes an 8-bit image."""


def check_coreml(request: CoremlRequest, low_precisions: tuple[str, ...], int8: bool) -> None:
    """``int8``: whether it is calibrated in the same export. Raises InputError for compressions that the target does
    not have, and for them or an image input without the half-precision package.
    """
    check_compressions(request.compressions, get_target(request.target))
    if QUANTIZED in request.compressions and not int8:
        raise InputError(
            f"{QUANTIZED} takes the activation steps that int8 is calibrated with",
            "Calibrate it: --precision fp32,fp16,int8 --calibration FOLDER",
        )
    if (request.compressions or request.image) and "fp16" not in low_precisions:
        what = (
            "compressed weights start from the fp16 package" if request.compressions else "an image input is for fp16"
        )
        raise InputError(what, "Add it: --precision fp32,fp16")


class CoremlExporter:
    """Packages made from the weights again, each verified by interpreting what was saved; see ``Exporter``."""

    name = "coreml"

    def __init__(self, request: CoremlRequest, low_precisions: tuple[str, ...], batch: int) -> None:
        self._request = request
        self._low_precisions = low_precisions
        self._batch = batch
        self._images: ImageFrames | None = None
        self._kept: list[tuple[Artifact, BackendParity]] = []
        self._gone: list[BackendParity] = []
        self._megabytes: dict[str, float] = {}

    def check_request(self, names: tuple[str, ...]) -> None:
        """See ``check_coreml``."""
        check_coreml(self._request, self._low_precisions, "int8" in names)

    def check_host(self) -> None:
        """Packages are made and interpreted with coremltools, on any machine."""
        backend = BACKENDS[VERIFIER]
        if not backend.installed:
            raise BackendUnavailable(
                f"--target coreml needs the package '{backend.library}', which is not installed here",
                f"Add it with: {backend.install}",
            )

    def check_sources(self, open_source: Callable[[str], FrameSource], progress: Progress) -> None:
        """It needs none; what does not concern it is said."""
        if self._batch > 1:
            progress.note(f"--batch {self._batch} is for the ONNX graphs: Core ML packages take one frame")

    def prepare(self, job: ExportJob) -> None:
        """The references behind an 8-bit image, where such a package is wanted."""
        if self._request.image:
            self._images = image_frames(job.references, job.contract, job.folder / "golden", job.outputs)
            job.more_frames += self._images.fed
            job.own_frames[IMAGE] = self._images.frames

    def make(self, job: ExportJob) -> None:
        """Every package, with the plans that ONNX was typed by and the steps that INT8 was calibrated with."""
        made, int8, request, images = job.result(Made), job.result(MadeInt8), self._request, self._images
        assert made is not None and job.provenance is not None, "ONNX comes first"
        (job.folder / "coreml").mkdir()
        integers = None
        if QUANTIZED in request.compressions and int8 is None:
            job.progress.note(f"coreml {QUANTIZED} is not made: there is no int8 to take the activation steps from")
        elif QUANTIZED in request.compressions and int8 is not None:
            rest = next(graph.precision_plan for graph in int8.graphs if graph.precision_plan is not None)
            integers = Integers(steps=int8.quantization.steps, scales=int8.scales, precision_plan=rest)
        packages = make_coreml(
            CoremlJob(
                contract=job.contract,
                weights=job.weights,
                license=job.provenance.license,
                image=images.contract if images else None,
                precision_plan=next((graph.precision_plan for graph in made.graphs if graph.precision == "fp16"), None),
                target=request.target,
                compressions=tuple(name for name in request.compressions if name != QUANTIZED),
                integers=integers,
                folder=str(job.folder / "coreml"),
            ),
            job.progress,
        )
        interface = None
        if images is not None:
            loss = images.finish(job.references)
            golden = golden_records(job.folder, images.frames)
            interface = GraphInterface(contract=images.contract, golden=golden, loss=loss)
        for package in packages:
            own = images if package.precision == IMAGE else None
            parity = self._check(package, job, own)
            artifact = _artifact(package, job.folder, parity, interface if own else None)
            if int8 is not None and package.precision == QUANTIZED:
                artifact = artifact.model_copy(update={"quantization": int8.quantization})
            self._megabytes[package.precision] = round(sum(file.size for file in artifact.files) / 1e6, 3)
            if package.precision in (*COMPRESSED, QUANTIZED) and not parity.verdict.passed:
                job.progress.note(f"coreml {package.precision} is not published: {parity.verdict}")
                shutil.rmtree(job.folder / artifact.main)
                self._gone.append(parity)
                continue
            job.artifacts.append(artifact)
            job.checked.append(parity)
            self._kept.append((artifact, parity))

    def _check(self, package: MadePackage, job: ExportJob, own: ImageFrames | None) -> BackendParity:
        return check_backend(
            VERIFIER,
            job.folder / "coreml" / f"{package.precision}.mlpackage",
            own.contract if own else job.contract,
            package.precision,
            own.frames if own else job.references,
            REFERENCE,
            job.progress,
            keep=job.outputs,
        )

    def report(self, job: ExportJob, reports: Path) -> None:
        """``coreml.json``: size and error of every package made, dropped ones too, and what their inputs lose."""
        artifacts = [artifact for artifact, _ in self._kept]
        lost = {one.precision: one.interface.loss for one in artifacts if one.interface and one.interface.loss}
        rows = [
            {
                "precision": parity.precision,
                "megabytes": self._megabytes[parity.precision],
                "published": parity.verdict.passed,
                "input_loss": lost[parity.precision].model_dump() if parity.precision in lost else None,
                **parity.verdict.model_dump(mode="json", exclude={"reference", "backend"}),
            }
            for parity in (*(parity for _, parity in self._kept), *self._gone)
        ]
        (reports / "coreml.json").write_text(json.dumps({"packages": rows}, indent=1))


def _artifact(package: MadePackage, folder: Path, parity: BackendParity, interface: GraphInterface | None) -> Artifact:
    return Artifact(
        name=f"coreml/{package.precision}",
        format="coreml",
        precision=package.precision,
        opset=package.specification,
        main=f"coreml/{package.precision}.mlpackage",
        files=tuple(record(folder, folder / "coreml" / name) for name in package.files),
        producers=package.versions,
        rewrites=package.rewrites,
        precision_plan=package.precision_plan,
        graph=package.graph,
        interface=interface,
        # What it does on a Mac is known on a Mac.
        state=State.CANDIDATE if parity.verdict.passed else State.FAILED,
        verdicts=(parity.verdict,),
    )
