"""Does this bundle still give the reference's depth, here, with what is installed here?"""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cdm_export.parity.check_backend import BackendParity, check_backend
from cdm_export.parity.golden import ReferenceFrame, prepare_frames, save_output
from cdm_export.parity.image_input import fit_frame
from cdm_export.progress import Progress
from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS, Backend, get_backend, why_absent
from cdm_export.runtimes.bundle import Artifact, Bundle, GraphInterface, State, Verdict
from cdm_export.runtimes.contract import ModelContract, execution_name
from cdm_export.runtimes.engines import find, why_none
from cdm_export.runtimes.errors import BackendCrashed, BackendUnavailable, InputError, ParityError
from cdm_export.runtimes.machine_load import LoadWatch, MachineLoad
from cdm_export.runtimes.opening import executable, reference_path
from cdm_export.runtimes.replaced import once_more_when_replaced
from cdm_export.runtimes.selection import check_precision, choose, executions, interface_of
from cdm_export.runtimes.sources import MirroredSource, open_source
from cdm_export.runtimes.temporary import TemporaryFolder
from cdm_export.runtimes.worker import Job, run_job


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
    """Sensor units per meter of those frames."""
    fit: bool = False
    """Crop and resize frames of another size."""
    checkpoint: Path | None = None
    """Compare with PyTorch on this checkpoint (its sha256 must be the bundle's)."""
    threads: int = 0
    """Compute threads; 0 for all."""
    precision: str = "auto"
    """One precision, or ``auto`` for every one that can run here."""


@dataclass(frozen=True)
class Verification:
    """What came of it."""

    parities: list[BackendParity]
    """One per backend and artifact that ran."""
    skipped: dict[str, str]
    """Backends that are not to be had here, and artifacts that failed before, and why."""
    crashed: dict[str, str]
    """Backends whose process died, and how; that is a failure."""
    reference: str
    """What the frames were compared with."""
    required: tuple[tuple[str, str], ...]
    """Backend and label of those that have to pass: what was published, or asked for by name. A library's own
    reduced precision on a published graph is an offer: a failure is remembered, and ``auto`` leaves it alone."""
    warnings: tuple[str, ...] = ()
    """What puts latencies in doubt."""

    @property
    def passed(self) -> bool:
        """Everything required passed, nothing died, and at least one ran."""
        required = [parity for parity in self.parities if (parity.backend, parity.label) in self.required]
        return not self.crashed and bool(required) and all(one.verdict.passed for one in required)


@once_more_when_replaced
def verify_bundle(request: VerifyRequest, progress: Progress) -> Verification:
    """Hash everything, run every backend that can run here, compare, and remember the verdicts for ``auto``.

    A bundle that is replaced meanwhile is verified again from the beginning, once. Raises BundleError (changed files),
    InputError (frames, names, checkpoint), BackendUnavailable (nothing to run).
    """
    wanted = [get_backend(request.backend)] if request.backend != "auto" else list(BACKENDS.values())
    progress.stage("hashes of all files")
    bundle = Bundle.open(request.bundle, full=True)
    check_precision(bundle, request.precision)
    loads: dict[str, MachineLoad] = {}
    with TemporaryFolder() as temporary, bundle.steady():

        @cache
        def references_of(interface: GraphInterface) -> _References:
            return _references(bundle, interface, request, Path(tempfile.mkdtemp(dir=temporary)), progress)

        references = references_of(bundle.manifest.interface(None))
        parities: list[BackendParity] = []
        required: list[tuple[str, str]] = []
        skipped: dict[str, str] = {}
        crashed: dict[str, str] = {}
        for backend in wanted:
            absent = why_absent(backend)
            for artifact, precision in _runnable(bundle, backend, request):
                label = execution_name(precision, artifact.batch if artifact else 1)
                name = f"{backend.name} {label}"
                if references.made_by == backend.name and label == "fp32":
                    skipped[name] = "it is the reference here; compared with itself it would always pass"
                    continue
                if artifact is not None and artifact.state is State.FAILED and request.precision == "auto":
                    skipped[name] = "it failed its gate where the bundle was made"
                    continue
                if artifact is not None and artifact.batch > len(references.frames):
                    skipped[name] = f"it takes {artifact.batch} different frames, there are {len(references.frames)}"
                    continue
                if artifact is None or artifact.precision == precision or request.precision != "auto":
                    required.append((backend.name, label))
                try:
                    if absent is not None:
                        raise absent  # no process is started for what is known not to run here
                    own = references_of(bundle.manifest.interface(artifact))
                    parity, load = _check(bundle, backend, artifact, precision, own, request, progress)
                    parities.append(parity)
                    if load.busy and parity.latency is not None:
                        loads[name] = load
                except BackendUnavailable as error:
                    if request.backend != "auto" and (backend.name, label) in required:
                        raise
                    skipped[name] = error.message
                except BackendCrashed as error:
                    bundle.check_unchanged()
                    crashed[name] = error.message
                    died = _died(backend, references, error)
                    _remember(bundle, backend, artifact, precision, died, None, progress)
    if not parities and not crashed:
        raise BackendUnavailable(
            f"{request.bundle}: nothing could be verified here: "
            + "; ".join(f"{name}: {why}" for name, why in skipped.items()),
            "See: cdm-export doctor",
        )
    warnings = tuple(f"{name}: {load}" for name, load in loads.items())
    for warning in warnings:
        progress.warn(warning)
    if unraced := [parity.name for parity in parities if _unraced(bundle, parity)]:
        progress.note(
            f"auto takes FP32 rather than {', '.join(unraced)} until a race has shown here that they are faster: "
            f"cdm-export bench {bundle.path}"
        )
    return Verification(parities, skipped, crashed, references.description, tuple(required), warnings)


def _unraced(bundle: Bundle, parity: BackendParity) -> bool:
    """Whether ``auto`` might take what passed if somebody had timed it in turn with others."""
    backend = BACKENDS[parity.backend]
    if parity.precision == "fp32" or not parity.verdict.passed or backend.engine or backend.verifies_only:
        return False
    if interface_of(bundle, backend.name, parity.precision) != bundle.manifest.interface(None):
        return False
    return (backend.name, parity.precision) not in local_results.load_speeds(bundle, parity.batch)


def _runnable(bundle: Bundle, backend: Backend, request: VerifyRequest) -> list[tuple[Artifact | None, str]]:
    """What a backend runs, and in which precision; None is the reference, which is verified only when asked for."""
    if backend.format == "checkpoint" and request.backend != backend.name:
        return []
    if backend.format == "checkpoint":
        if request.precision not in ("auto", "fp32"):
            raise BackendUnavailable(
                f"'{backend.name}' is the FP32 reference; {request.precision} in PyTorch was verified at export",
                f"Look into it with: cdm-export verify {bundle.path} --bisect --backend torch --precision "
                f"{request.precision}",
            )
        return [(None, "fp32")]
    wanted = [
        pair
        for batch in bundle.manifest.batches
        for pair in executions(bundle, backend, batch)
        if request.precision in ("auto", pair[1])
    ]
    if not wanted and request.backend == backend.name:
        choose(bundle, backend.name, request.precision)  # says why
    if backend.engine:
        built = [pair for pair in wanted if find(bundle, backend, pair[1]) is not None]
        if not built and request.backend == backend.name:
            raise why_none(bundle, backend, request.precision)
        return [*built]
    return [*wanted]


@dataclass(frozen=True)
class _References:
    frames: list[ReferenceFrame]
    description: str
    """What made them, in description."""
    made_by: str | None = None
    """Backend that made them just now; None for those stored in the bundle."""

    @property
    def pytorch(self) -> bool:
        """Whether PyTorch made them, here or where the bundle was made; only then is a verdict worth remembering."""
        return self.made_by in (None, "torch")


def _check(
    bundle: Bundle,
    backend: Backend,
    artifact: Artifact | None,
    precision: str,
    references: _References,
    request: VerifyRequest,
    progress: Progress,
) -> tuple[BackendParity, MachineLoad]:
    """Its parity, and what others did on the machine meanwhile."""
    watch = LoadWatch()
    with bundle.steady():
        if artifact is None:
            path = reference_path(bundle, request.checkpoint)
        else:
            path = executable(bundle, backend, artifact, precision)
        parity = check_backend(
            backend.name,
            path,
            bundle.manifest.interface(artifact).contract.batched(artifact.batch if artifact else 1),
            precision,
            references.frames,
            references.description,
            progress,
            threads=request.threads,
            timed=artifact is not None and not backend.verifies_only,
        )
    load = watch.load()
    if references.pytorch:
        p50 = parity.latency.p50 if parity.latency else None
        _remember(bundle, backend, artifact, precision, parity.verdict, p50, progress, str(load))
    return parity, load


def _died(backend: Backend, references: _References, error: BackendCrashed) -> Verdict:
    """A backend that dies has failed, and ``auto`` must not pick it."""
    return Verdict(
        backend=backend.name,
        verdict="failed",
        reason=error.message,
        frames=0,
        mean=None,
        p99=None,
        max=None,
        mean_mm=None,
        reference=references.description,
    )


def _remember(
    bundle: Bundle,
    backend: Backend,
    artifact: Artifact | None,
    precision: str,
    verdict: Verdict,
    p50_ms: float | None,
    progress: Progress,
    disturbed: str = "",
) -> None:
    here = local_results.path_here(bundle, backend, precision, artifact.batch) if artifact else None
    if here is None:
        return
    local = local_results.LocalVerdict(**dict(here), verdict=verdict, p50_ms=p50_ms, disturbed=disturbed)
    if local_results.save(bundle, local) is None:
        progress.note("the verdict could not be stored: neither the bundle nor the cache can be written")


def _references(
    bundle: Bundle, interface: GraphInterface, request: VerifyRequest, folder: Path, progress: Progress
) -> _References:
    """Frames of an interface with their reference output, and what made it."""
    golden = _golden(bundle, interface)
    if request.frames is None and request.checkpoint is None:
        return _References(golden, "PyTorch outputs stored in the bundle")
    if request.frames is None:
        return _computed(bundle, interface, request, golden, folder, progress)
    prepared = _prepared(bundle, interface.contract, request, folder, progress)
    return _computed(bundle, interface, request, prepared, folder, progress)


def _prepared(
    bundle: Bundle, contract: ModelContract, request: VerifyRequest, folder: Path, progress: Progress
) -> list[ReferenceFrame]:
    assert request.frames is not None
    source = open_source(
        request.frames,
        depth_scale=request.depth_scale,
        camera=contract.camera,
        fit=request.fit,
        needs_depth=contract.depth_input is not None,
    )
    if len(source) == 0:
        raise InputError(f"'{request.frames}' holds no frames")
    filled = MirroredSource(source, bundle.manifest.batches[-1])
    if len(filled) > len(source):
        progress.note(f"a batch of {bundle.manifest.batches[-1]} is verified on {filled.description}")
    return prepare_frames(filled, contract, folder / "frames", progress)


def first_frame(
    bundle: Bundle, candidate: tuple[str, str], request: VerifyRequest, folder: Path, progress: Progress
) -> ReferenceFrame:
    """The first golden frame as ``candidate`` is fed, or the first of the request's source, prepared in ``folder``."""
    interface = interface_of(bundle, *candidate)
    if request.frames is None:
        return _golden(bundle, interface)[0]
    return _prepared(bundle, interface.contract, request, folder, progress)[0]


def bisect_pairs(
    bundle: Bundle, request: VerifyRequest, against: str | None
) -> tuple[tuple[str, str], tuple[str, str]]:
    """Candidate and reference of a bisect, each backend and precision.

    By default the candidate is ONNX Runtime on the bundle's FP16 graph, or its FP32 graph where there is none; the
    reference is PyTorch where the weights are at hand, else ``fp32.onnx`` on ONNX Runtime.
    """
    backend = "onnxruntime" if request.backend == "auto" else request.backend
    made = {artifact.precision for artifact in bundle.manifest.artifacts}
    precision = ("fp16" if "fp16" in made else "fp32") if request.precision == "auto" else request.precision
    if against is not None:
        name, separator, typed = against.partition(":")
        if not separator:
            raise InputError(f"--against wants BACKEND:PRECISION, got '{against}'", "For example --against torch:fp32")
        return (backend, precision), (name, typed)
    weights = request.checkpoint is not None or bundle.manifest.provenance.random_weights is not None
    return (backend, precision), ("torch" if weights else "onnxruntime", "fp32")


def _golden(bundle: Bundle, interface: GraphInterface) -> list[ReferenceFrame]:
    return [ReferenceFrame(item.name, bundle.file(item.file)) for item in interface.golden]


def _computed(
    bundle: Bundle,
    interface: GraphInterface,
    request: VerifyRequest,
    frames: list[ReferenceFrame],
    folder: Path,
    progress: Progress,
) -> _References:
    """Reference outputs made now: PyTorch where the weights are at hand, else ``fp32.onnx`` on ONNX Runtime.

    Either is fed floats, whatever the interface.
    """
    contract, provenance = bundle.manifest.contract, bundle.manifest.provenance
    at_hand = request.checkpoint is not None or provenance.random_weights is not None
    if at_hand and BACKENDS["torch"].installed:
        backend, path = BACKENDS["torch"], reference_path(bundle, request.checkpoint)
        description = "eager float32 PyTorch"
    elif request.checkpoint is not None:
        raise BackendUnavailable(
            "--checkpoint compares with PyTorch, which is not installed", BACKENDS["torch"].install
        )
    else:
        choice = choose(bundle, "onnxruntime", "fp32")
        assert choice.artifact is not None
        backend, path = choice.backend, bundle.artifact_file(choice.artifact)
        stored = "PyTorch outputs stored in the bundle"
        golden = check_backend(
            backend.name, path, contract, "fp32", _golden(bundle, bundle.manifest.interface(None)), stored, progress
        )
        if not golden.verdict.passed:
            raise ParityError(
                f"ONNX Runtime cannot be the reference here, it disagrees with PyTorch itself: {golden.verdict}",
                f"Look closer with: cdm-export verify {bundle.path} --backend onnxruntime",
            )
        description = f"fp32.onnx on ONNX Runtime (itself against PyTorch on the golden frames: {golden.verdict})"
    progress.stage(f"reference: {description}", len(frames))
    outputs = [folder / f"reference-{index:03d}.npy" for index in range(len(frames))]
    job = Job(
        backend=backend.name,
        path=str(path),
        contract=contract,
        precision="fp32",
        threads=request.threads,
        frames=tuple(str(fit_frame(frame, contract, folder).path) for frame in frames),
        outputs=tuple(str(output) for output in outputs),
    )
    run_job(job, progress.step)
    references = []
    for index, (frame, output) in enumerate(zip(frames, outputs, strict=True)):
        path = folder / f"reference-{index:03d}.npz"
        save_output(path, frame.path, interface.contract, np.load(output, allow_pickle=False))
        references.append(ReferenceFrame(frame.name, path))
    return _References(references, description, backend.name)
