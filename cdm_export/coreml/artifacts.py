"""The Core ML part of an export: packages made, each verified by interpreting what was saved."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from cdm_export.coreml.compress import check_compressions
from cdm_export.coreml.worker import CoremlJob, Integers, MadePackage, make_coreml
from cdm_export.onnx.worker import Made, MakeJob
from cdm_export.parity.check_backend import BackendParity, check_backend
from cdm_export.parity.golden import ReferenceFrame, golden_records
from cdm_export.parity.image_input import ImageFrames
from cdm_export.progress import Progress
from cdm_export.publish import record
from cdm_export.quantize.worker import MadeInt8
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Artifact, GraphInterface, State
from cdm_export.runtimes.contract import COMPRESSED, IMAGE, QUANTIZED, Precision
from cdm_export.runtimes.coreml_target import get_target
from cdm_export.runtimes.errors import BackendUnavailable, InputError

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


@dataclass(frozen=True)
class CoremlPackages:
    """What came of it."""

    artifacts: tuple[Artifact, ...]
    """Packages for the bundle."""
    required: tuple[BackendParity, ...]
    """Parity of these; the caller judges it."""
    dropped: tuple[BackendParity, ...]
    """Parity of compressed packages that missed their gate; they are gone."""
    megabytes: dict[str, float]
    """Size of every package made, MB, by precision."""

    def write_table(self, reports: Path) -> None:
        """``coreml.json``: size and error of every package made, dropped ones too, and what their inputs lose."""
        lost = {one.precision: one.interface.loss for one in self.artifacts if one.interface and one.interface.loss}
        rows = [
            {
                "precision": parity.precision,
                "megabytes": self.megabytes[parity.precision],
                "published": parity.verdict.passed,
                "input_loss": lost[parity.precision].model_dump() if parity.precision in lost else None,
                **parity.verdict.model_dump(mode="json", exclude={"reference", "backend"}),
            }
            for parity in (*self.required, *self.dropped)
        ]
        (reports / "coreml.json").write_text(json.dumps({"packages": rows}, indent=1))


def check_coreml(request: CoremlRequest, low_precisions: tuple[str, ...], int8: bool) -> None:
    """Before any long work. ``int8``: whether it is calibrated in the same export.

    Raises BackendUnavailable, with the command that adds it, unless packages can be made here; InputError for
    compressions that the target does not have, and for them or an image input without the half-precision package.
    """
    backend = BACKENDS[VERIFIER]
    if not backend.installed:
        raise BackendUnavailable(
            f"--target coreml needs the package '{backend.library}', which is not installed here",
            f"Add it with: {backend.install}",
        )
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


def add_coreml(
    job: MakeJob,
    made: Made,
    request: CoremlRequest,
    folder: Path,
    references: list[ReferenceFrame],
    images: ImageFrames | None,
    int8: MadeInt8 | None,
    reference: str,
    progress: Progress,
) -> CoremlPackages:
    """Make the packages of one export in ``folder/coreml`` and verify each as it was saved.

    ``images``: frames of the package that takes an 8-bit image, when it is wanted. ``int8``: what was calibrated.
    """
    (folder / "coreml").mkdir()
    precision_plan = next((graph.precision_plan for graph in made.graphs if graph.precision == "fp16"), None)
    integers = None
    if QUANTIZED in request.compressions and int8 is None:
        progress.note(f"coreml {QUANTIZED} is not made: there is no int8 to take the activation steps from")
    elif QUANTIZED in request.compressions and int8 is not None:
        rest = next(graph.precision_plan for graph in int8.graphs if graph.precision_plan is not None)
        integers = Integers(steps=int8.quantization.steps, scales=int8.scales, precision_plan=rest)
    packages = make_coreml(
        CoremlJob(
            contract=job.contract,
            weights=job.weights.made(made.provenance),
            license=made.provenance.license,
            image=images.contract if images else None,
            precision_plan=precision_plan,
            target=request.target,
            compressions=tuple(name for name in request.compressions if name != QUANTIZED),
            integers=integers,
            folder=str(folder / "coreml"),
        ),
        progress,
    )
    artifacts, required, dropped = [], [], []
    megabytes: dict[str, float] = {}
    interface = None
    if images is not None:
        loss = images.finish(references)
        interface = GraphInterface(contract=images.contract, golden=golden_records(folder, images.frames), loss=loss)
    for package in packages:
        path = folder / "coreml" / f"{package.precision}.mlpackage"
        own = images if package.precision == IMAGE else None
        parity = check_backend(
            VERIFIER,
            path,
            own.contract if own else job.contract,
            package.precision,
            own.frames if own else references,
            reference,
            progress,
            keep=Path(job.outputs),
        )
        artifact = _artifact(package, folder, parity, interface if own else None)
        if int8 is not None and package.precision == QUANTIZED:
            artifact = artifact.model_copy(update={"quantization": int8.quantization})
        megabytes[package.precision] = round(sum(file.size for file in artifact.files) / 1e6, 3)
        if package.precision in (*COMPRESSED, QUANTIZED) and not parity.verdict.passed:
            progress.note(f"coreml {package.precision} is not published: {parity.verdict}")
            shutil.rmtree(path)
            dropped.append(parity)
            continue
        artifacts.append(artifact)
        required.append(parity)
    return CoremlPackages(tuple(artifacts), tuple(required), tuple(dropped), megabytes)


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
