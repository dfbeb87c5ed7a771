"""Does this bundle still give the reference's depth, here, with what is installed here?"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdm_export.backend_parity import BackendParity, ReferenceFrame, check_backend
from cdm_export.golden import save_frame, save_output
from cdm_export.progress import Progress
from runtimes import sidecar
from runtimes.backends import BACKENDS, Backend, get_backend
from runtimes.bundle import Artefact, Bundle
from runtimes.errors import BackendUnavailable, CdmExportError, InputError
from runtimes.host import fingerprint
from runtimes.opening import reference_path
from runtimes.processing import preprocess
from runtimes.selection import choose
from runtimes.sources import open_source
from runtimes.worker import Job, run_job


@dataclass(frozen=True)
class VerifyRequest:
    """What to verify."""

    bundle: Path
    """Bundle to verify; all its files are hashed."""
    backend: str = "auto"
    """One backend, or ``auto`` for every one that can run here."""
    frames: str | None = None
    """Frame source; None for the bundle's golden frames."""
    depth_scale: float = 1000.0
    """Sensor units per metre of those frames."""
    fit: bool = False
    """Crop and resize frames of another size."""
    checkpoint: Path | None = None
    """Compare with PyTorch on this checkpoint (its sha256 must be the bundle's)."""
    threads: int = 0
    """Compute threads; 0 for all."""


@dataclass(frozen=True)
class Verification:
    """What came of it."""

    parities: list[BackendParity]
    """One per backend and artefact that ran."""
    skipped: dict[str, str]
    """Backends that did not run, and why."""
    reference: str
    """What the frames were compared with."""

    @property
    def passed(self) -> bool:
        """Every backend that ran passed, and at least one ran."""
        return bool(self.parities) and all(parity.verdict.verdict == "passed" for parity in self.parities)


def verify_bundle(request: VerifyRequest, progress: Progress) -> Verification:
    """Hash everything, run every backend that can run here, compare, and remember the verdicts for ``auto``.

    Raises BundleError (changed files), InputError (frames, names, checkpoint), BackendUnavailable (nothing to run).
    """
    wanted = [get_backend(request.backend)] if request.backend != "auto" else list(BACKENDS.values())
    progress.stage("hashes of all files")
    bundle = Bundle.open(request.bundle, full=True)
    with tempfile.TemporaryDirectory(prefix="cdm-export-") as temporary:
        references, reference = _references(bundle, request, Path(temporary), progress)
        parities: list[BackendParity] = []
        skipped: dict[str, str] = {}
        for backend in wanted:
            for artefact in _runnable(bundle, backend, request):
                try:
                    parity = _check(bundle, backend, artefact, references, reference, request, progress)
                except CdmExportError as error:
                    if request.backend != "auto" or not isinstance(error, BackendUnavailable):
                        raise
                    skipped[backend.name] = error.message
                    continue
                parities.append(parity)
    if not parities:
        raise BackendUnavailable(
            f"{request.bundle}: nothing could be verified here: "
            + "; ".join(f"{name}: {why}" for name, why in skipped.items()),
            "See: cdm-export doctor",
        )
    return Verification(parities, skipped, reference)


def _runnable(bundle: Bundle, backend: Backend, request: VerifyRequest) -> list[Artefact | None]:
    """Artefacts a backend runs; None stands for the reference, which is verified only when asked for."""
    if backend.format == "checkpoint":
        return [None] if request.backend == backend.name else []
    return [
        artefact
        for artefact in bundle.manifest.artefacts
        if artefact.format == backend.format and artefact.precision in backend.precisions
    ]


def _check(
    bundle: Bundle,
    backend: Backend,
    artefact: Artefact | None,
    references: list[ReferenceFrame],
    reference: str,
    request: VerifyRequest,
    progress: Progress,
) -> BackendParity:
    path = bundle.artefact_file(artefact) if artefact else reference_path(bundle, request.checkpoint)
    parity = check_backend(
        backend.name,
        path,
        bundle.manifest.contract,
        artefact.precision if artefact else "fp32",
        references,
        reference,
        progress,
        threads=request.threads,
        timed=artefact is not None,
    )
    if artefact is not None:
        sidecar.save(
            bundle,
            sidecar.LocalVerdict(
                backend=backend.name,
                precision=artefact.precision,
                artefact_sha256=sidecar.main_sha256(artefact),
                host=fingerprint(),
                versions=parity.description["versions"],
                verdict=parity.verdict,
                p50_ms=parity.latency.p50 if parity.latency else None,
            ),
        )
    return parity


def _references(
    bundle: Bundle, request: VerifyRequest, folder: Path, progress: Progress
) -> tuple[list[ReferenceFrame], str]:
    """Frames with their reference output, and what made it."""
    golden = [ReferenceFrame(item.name, bundle.file(item.file)) for item in bundle.manifest.golden]
    if request.frames is None and request.checkpoint is None:
        return golden, "PyTorch outputs stored in the bundle"
    contract = bundle.manifest.contract
    if request.frames is None:
        return _computed(bundle, request, golden, folder, progress)
    source = open_source(request.frames, depth_scale=request.depth_scale, camera=contract.camera, fit=request.fit)
    if len(source) == 0:
        raise InputError(f"'{request.frames}' holds no frames")
    frames = []
    for index, name in enumerate(source.names):
        frame = source.load(index)
        path = folder / f"frame-{index:03d}.npz"
        save_frame(path, frame, preprocess(frame.frame, contract))
        frames.append(ReferenceFrame(name, path))
    return _computed(bundle, request, frames, folder, progress)


def _computed(
    bundle: Bundle, request: VerifyRequest, frames: list[ReferenceFrame], folder: Path, progress: Progress
) -> tuple[list[ReferenceFrame], str]:
    """Reference outputs made now: PyTorch where the weights are at hand, else ``fp32.onnx`` on ONNX Runtime."""
    contract, provenance = bundle.manifest.contract, bundle.manifest.provenance
    at_hand = request.checkpoint is not None or provenance.random_weights is not None
    if at_hand and BACKENDS["torch"].installed:
        backend, path = BACKENDS["torch"], reference_path(bundle, request.checkpoint)
        words = "eager float32 PyTorch"
    elif request.checkpoint is not None:
        raise BackendUnavailable(
            "--checkpoint compares with PyTorch, which is not installed", BACKENDS["torch"].install
        )
    else:
        choice = choose(bundle, "onnxruntime", "fp32")
        assert choice.artefact is not None
        backend, path = choice.backend, bundle.artefact_file(choice.artefact)
        words = f"fp32.onnx on ONNX Runtime (itself against PyTorch: {choice.verdict})"
    progress.stage(f"reference: {words}", len(frames))
    outputs = [folder / f"reference-{index:03d}.npy" for index in range(len(frames))]
    job = Job(
        backend=backend.name,
        path=str(path),
        contract=contract,
        precision="fp32",
        threads=request.threads,
        frames=tuple(str(frame.path) for frame in frames),
        outputs=tuple(str(output) for output in outputs),
    )
    run_job(job, progress.step)
    references = []
    for index, (frame, output) in enumerate(zip(frames, outputs, strict=True)):
        path = folder / f"reference-{index:03d}.npz"
        save_output(path, frame.path, contract, np.load(output, allow_pickle=False))
        references.append(ReferenceFrame(frame.name, path))
    return references, words
