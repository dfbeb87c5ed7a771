"""The Core ML part of an export: packages made, each verified by interpreting what was saved."""

from pathlib import Path

from cdm_export.backend_parity import BackendParity, check_backend
from cdm_export.golden import ReferenceFrame
from cdm_export.make_coreml import CoremlJob, MadePackage, make_coreml
from cdm_export.make_onnx import Made, MakeJob
from cdm_export.progress import Progress
from cdm_export.publish import record
from runtimes.backends import BACKENDS
from runtimes.bundle import Artefact, State
from runtimes.errors import BackendUnavailable

VERIFIER = "coreml-reference"
"""Backend that verifies packages on the machine that makes them."""


def check_coreml() -> None:
    """Raise BackendUnavailable, with the command that adds it, unless packages can be made here."""
    backend = BACKENDS[VERIFIER]
    if not backend.installed:
        raise BackendUnavailable(
            f"--target coreml needs the package '{backend.library}', which is not installed here",
            f"Add it with: {backend.install}",
        )


def add_coreml(
    job: MakeJob,
    made: Made,
    target: str,
    folder: Path,
    references: list[ReferenceFrame],
    reference: str,
    progress: Progress,
) -> tuple[list[Artefact], list[BackendParity]]:
    """Make the packages of one export in ``folder/coreml`` and verify each; the caller judges the verdicts."""
    (folder / "coreml").mkdir()
    typing = next((graph.typing for graph in made.graphs if graph.precision == "fp16"), None)
    packages = make_coreml(
        CoremlJob(
            contract=job.contract,
            checkpoint=job.checkpoint,
            random_weights=made.provenance.random_weights,
            licence=made.provenance.licence,
            typing=typing,
            target=target,
            folder=str(folder / "coreml"),
        ),
        progress,
    )
    artefacts, parities = [], []
    for package in packages:
        parity = check_backend(
            VERIFIER,
            folder / "coreml" / f"{package.precision}.mlpackage",
            job.contract,
            package.precision,
            references,
            reference,
            progress,
            keep=Path(job.outputs),
        )
        parities.append(parity)
        artefacts.append(_artefact(package, folder, parity))
    return artefacts, parities


def _artefact(package: MadePackage, folder: Path, parity: BackendParity) -> Artefact:
    return Artefact(
        name=f"coreml/{package.precision}",
        format="coreml",
        precision=package.precision,
        opset=package.specification,
        main=f"coreml/{package.precision}.mlpackage",
        files=tuple(record(folder, folder / "coreml" / name) for name in package.files),
        producers=package.versions,
        rewrites=package.rewrites,
        typing=package.typing,
        graph=package.graph,
        state=State.CANDIDATE,  # what it does on a Mac is known on a Mac
        verdicts=(parity.verdict,),
    )
