"""Does this bundle still give the reference's depth, here, with what is installed here?"""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cdm_export.parity.check_backend import BackendParity, check_backend
from cdm_export.parity.references import References, references_of
from cdm_export.parity.request import VerifyRequest
from cdm_export.progress import Progress
from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS, Backend, get_backend, why_absent
from cdm_export.runtimes.bundle import Artifact, Bundle, GraphInterface, State, Verdict
from cdm_export.runtimes.contract import execution_name
from cdm_export.runtimes.engines import find, why_none
from cdm_export.runtimes.errors import BackendCrashed, BackendUnavailable
from cdm_export.runtimes.machine_load import LoadWatch, MachineLoad
from cdm_export.runtimes.opening import executable, reference_path
from cdm_export.runtimes.replaced import once_more_when_replaced
from cdm_export.runtimes.selection import check_precision, choose, executions, interface_of
from cdm_export.runtimes.temporary import TemporaryFolder


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
        def references(interface: GraphInterface) -> References:
            return references_of(bundle, interface, request, Path(tempfile.mkdtemp(dir=temporary)), progress)

        shared = references(bundle.manifest.interface(None))
        parities: list[BackendParity] = []
        required: list[tuple[str, str]] = []
        skipped: dict[str, str] = {}
        crashed: dict[str, str] = {}
        for backend in wanted:
            absent = why_absent(backend)
            for artifact, precision in _runnable(bundle, backend, request):
                label = execution_name(precision, artifact.batch if artifact else 1)
                name = f"{backend.name} {label}"
                if shared.made_by == backend.name and label == "fp32":
                    skipped[name] = "it is the reference here; compared with itself it would always pass"
                    continue
                if artifact is not None and artifact.state is State.FAILED and request.precision == "auto":
                    skipped[name] = "it failed its gate where the bundle was made"
                    continue
                if artifact is not None and artifact.batch > len(shared.frames):
                    skipped[name] = f"it takes {artifact.batch} different frames, there are {len(shared.frames)}"
                    continue
                if artifact is None or artifact.precision == precision or request.precision != "auto":
                    required.append((backend.name, label))
                try:
                    if absent is not None:
                        raise absent  # no process is started for what is known not to run here
                    own = references(bundle.manifest.interface(artifact))
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
                    died = _died(backend, shared, error)
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
    return Verification(parities, skipped, crashed, shared.description, tuple(required), warnings)


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


def _check(
    bundle: Bundle,
    backend: Backend,
    artifact: Artifact | None,
    precision: str,
    references: References,
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


def _died(backend: Backend, references: References, error: BackendCrashed) -> Verdict:
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
