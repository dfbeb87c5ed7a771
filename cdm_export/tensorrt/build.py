"""An engine of a bundle for this device: build, show what it is, test on the golden frames; else the next fallback.

An engine appears whole or not at all, beside the bundle or in the cache. One that failed is kept aside as failed.
"""

from dataclasses import dataclass
from pathlib import Path

from cdm_export import publish
from cdm_export.parity.check_backend import BackendParity, check_backend
from cdm_export.parity.golden import ReferenceFrame
from cdm_export.progress import Progress
from cdm_export.runtimes import engines, local_results
from cdm_export.runtimes.backends import Backend, get_backend
from cdm_export.runtimes.bundle import Artifact, Bundle, State, Verdict
from cdm_export.runtimes.cache import cache_dir
from cdm_export.runtimes.engine_record import EngineRecord, Source
from cdm_export.runtimes.engines import FAILED_SUFFIX, PLAN, FoundEngine
from cdm_export.runtimes.errors import (
    BackendCrashed,
    BackendUnavailable,
    BundleError,
    EngineBuildError,
    EngineRunError,
    InputError,
    ParityError,
)
from cdm_export.runtimes.nvidia import Gpu, available_memory, find_gpu, free_memory, gpu_or_none
from cdm_export.tensorrt.fallbacks import ATTENTION_BROKEN, Attempt, attempts
from cdm_export.tensorrt.int8_selection import decide, decided, int8_candidate, undecided_engine, won_before
from cdm_export.tensorrt.known_issues import concerning
from cdm_export.tensorrt.memory import shortage
from cdm_export.tensorrt.places import locked, unfinished, writable_root
from cdm_export.tensorrt.record import machine_of, write_record
from cdm_export.tensorrt.worker import BuildJob, BuildOutcome, run_build

REFERENCE = "PyTorch outputs stored in the bundle"


@dataclass(frozen=True)
class BuildRequest:
    """What to build."""

    bundle: Path
    """Bundle to build from."""
    target: str
    """``tensorrt`` or ``tensorrt-rtx``."""
    precision: str = "auto"
    """``auto``: fp16, else its fallbacks."""
    fallbacks: bool = True
    """Whether to try something else when the first choice fails."""
    workspace_mib: int | None = None
    """Upper limit of scratch memory, MiB; None for 1024 where GPU and CPU share memory, else the library's."""
    optimization_level: int = 3
    """0..5."""
    force: bool = False
    """Build although there is a usable engine."""


@dataclass(frozen=True)
class Outcome:
    """How one attempt went."""

    attempt: str
    """Precision and workaround in words."""
    outcome: str
    """``published``, ``candidate``, ``failed``, ``skipped``, or ``there already``."""
    detail: str
    """Verdict, error, or reason."""


@dataclass(frozen=True)
class BuildReport:
    """What a build made."""

    engine: FoundEngine
    """The engine to use."""
    outcomes: tuple[Outcome, ...]
    """Every attempt, in order; the last one is the engine's."""
    parity: BackendParity | None
    """Self-test of the engine; None where it could not run."""


def build_bundle(request: BuildRequest, progress: Progress) -> BuildReport:
    """Build until something passes.

    Raises InputError (names), BundleError, BackendUnavailable (library, driver, memory functions), EngineBuildError
    (nothing could be built), ParityError (nothing passed its self-test).
    """
    backend = get_backend(request.target)
    if not backend.engine:
        raise InputError(
            f"'{backend.name}' runs bundles as they are: there is nothing to build",
            "Targets are tensorrt and tensorrt-rtx.",
        )
    if not backend.installed:
        raise BackendUnavailable(
            f"building for '{backend.name}' needs the package '{backend.library}', which is not installed here",
            f"Add it with: {backend.install}",
        )
    gpu = find_gpu() if backend.name == "tensorrt" else gpu_or_none()
    if gpu is not None:
        from cdm_export.runtimes.cuda_memory import require_cuda

        require_cuda()  # before minutes of building, not after
    bundle = Bundle.open(request.bundle)
    if batches := [batch for batch in bundle.manifest.batches if batch > 1]:
        progress.note(f"engines take one frame: the graphs for {batches[0]} at once are not built")
    planned = attempts(bundle, backend, request.precision, request.fallbacks)
    likely = [*won_before(bundle, backend), *planned] if request.precision == "auto" else planned
    root = writable_root(bundle)
    with locked(root, lambda: progress.stage("waiting for another build")):
        session = _Session(request, bundle, backend, gpu, root, progress)
        if not request.force and (there := _built_already(bundle, backend, likely, gpu)):
            return session.with_int8(there)
        return session.with_int8(session.run(planned))


class _Session:
    """One ``build``, under the lock."""

    def __init__(
        self, request: BuildRequest, bundle: Bundle, backend: Backend, gpu: Gpu | None, root: Path, progress: Progress
    ) -> None:
        self._request = request
        self._bundle = bundle
        self._backend = backend
        self._gpu = gpu
        self._root = root
        self._progress = progress
        self._outcomes: list[Outcome] = []
        self._attention_bytes: int | None = None

    def run(self, planned: list[Attempt]) -> BuildReport:
        errors: list[Exception] = []
        for attempt in planned:
            if why := self._reason_to_skip(attempt):
                self._note(attempt, "skipped", why)
                continue
            try:
                return self._attempt(attempt)
            except (EngineBuildError, BackendCrashed, ParityError) as error:
                self._note(attempt, "failed", error.message)
                errors.append(error)
        tried = "; ".join(f"{one.attempt}: {one.detail}" for one in self._outcomes)
        kind = ParityError if any(isinstance(error, ParityError) for error in errors) else EngineBuildError
        raise kind(
            f"no usable engine of {self._bundle.path} for '{self._backend.name}': {tried}",
            f"Look closer with: cdm-export verify {self._bundle.path} --bisect --backend {self._backend.name}, or run "
            "it with --backend onnxruntime.",
        )

    def with_int8(self, report: BuildReport) -> BuildReport:
        """``report``, or INT8 instead where it is faster on this device; asked for by name, nothing challenges."""
        bundle, backend = self._bundle, self._backend
        candidate = int8_candidate(bundle, backend)
        if self._request.precision != "auto" or self._gpu is None or candidate is None:
            return report
        if not self._request.force and decided(bundle, backend):
            return report
        self._outcomes = list(report.outcomes)
        parity = None
        tried = None if self._request.force else undecided_engine(bundle, backend)
        if tried is None:
            try:
                made = self._attempt(candidate, final=False)
            except (EngineBuildError, BackendCrashed, ParityError) as error:
                self._note(candidate, "failed", error.message)
                return BuildReport(report.engine, tuple(self._outcomes), report.parity)
            self._outcomes.pop()  # how it went is said once it is decided
            tried, parity = made.engine, made.parity
        won, record, description = decide(bundle, backend, report.engine, tried, self._progress)
        tried = FoundEngine(tried.path, record)
        if won:
            self._remember(tried)  # before the record says published: without a verdict nothing takes a candidate
        engines.write_record(tried.path.parent, record)
        self._outcomes.append(Outcome(str(candidate), record.state.value, description))
        return BuildReport(tried if won else report.engine, tuple(self._outcomes), parity if won else report.parity)

    def _note(self, attempt: Attempt, outcome: str, detail: str) -> None:
        self._outcomes.append(Outcome(str(attempt), outcome, detail))
        self._progress.note(f"{attempt}: {outcome}: {detail}")

    def _reason_to_skip(self, attempt: Attempt) -> str | None:
        if attempt.artifact is None:
            return f"the bundle has no {attempt.precision} graph"
        if attempt.artifact.state is State.FAILED:
            reasons = "; ".join(str(verdict) for verdict in attempt.artifact.verdicts if not verdict.passed)
            return f"{attempt.artifact.name} failed its gate where it was made ({reasons or 'no figures'})"
        if attempt.workaround != ATTENTION_BROKEN:
            return None
        if self._gpu is None:
            return "without a GPU nothing shows that it is needed"
        if self._attention_bytes is None:
            return "the size of its extra outputs is not known, because nothing could be parsed"
        free = free_memory(self._gpu)
        if not self._attention_bytes <= free:
            return f"its extra outputs take {self._attention_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        return None

    def _attempt(self, attempt: Attempt, *, final: bool = True) -> BuildReport:
        """One engine, published or kept aside; not ``final`` it stays a candidate, whatever its self-test says.

        Raises what makes the next attempt necessary.
        """
        assert attempt.artifact is not None
        with unfinished(self._root, attempt.precision) as folder:
            job = self._job(attempt, attempt.artifact, folder)
            self._warn_of_memory(attempt.artifact, job.workspace)
            with self._bundle.steady():
                outcome = self._build(attempt, job)
            self._attention_bytes = self._attention_bytes or outcome.attention_bytes
            built_from = self._float32() if outcome.typing == "legacy" else attempt.artifact
            source = Source(artifact=built_from.name, identity=built_from.identity)
            contract = self._bundle.manifest.contract
            record = write_record(folder, job, outcome, contract, source, self._gpu, attempt.workaround)
            if broken := record.layer_report.broken:
                checks = "; ".join(f"not so: {check.name} ({check.detail})" for check in broken)
                self._keep(folder, record.model_copy(update={"state": State.FAILED}))
                raise EngineBuildError(f"the engine is not what it should be: {checks}")
            for check in record.layer_report.costly:
                self._progress.note(f"slower than it could be; not so: {check.name} ({check.detail})")
            parity = self._self_test(folder, record)
            record = _tested(record, parity, final)
            engine = self._keep(folder, record)
        if final:
            self._remember(engine)
        if parity is not None and record.state is State.FAILED:
            raise ParityError(f"the self-test: {parity.verdict}; kept aside in {engine.path.parent}")
        detail = (
            str(parity.verdict) if parity else "no self-test: there is no NVIDIA driver here; it runs on the device"
        )
        self._outcomes.append(Outcome(str(attempt), record.state.value, detail))
        return BuildReport(engine, tuple(self._outcomes), parity)

    def _build(self, attempt: Attempt, job: BuildJob) -> BuildOutcome:
        progress = self._progress
        progress.stage(f"{self._backend.name} {attempt}: building")
        return run_build(
            job,
            lambda version: self._warn(version, attempt),
            lambda name, steps: progress.stage(f"{self._backend.name} {attempt}: {name[0].lower()}{name[1:]}", steps),
            lambda done: _advance(progress, done),
        )

    def _job(self, attempt: Attempt, artifact: Artifact, folder: Path) -> BuildJob:
        workspace = self._request.workspace_mib
        if workspace is None:
            workspace = 1024 if self._gpu and self._gpu.integrated else 0
        return BuildJob(
            backend="tensorrt-rtx" if self._backend.name == "tensorrt-rtx" else "tensorrt",
            graph=str(self._bundle.artifact_file(artifact).resolve()),
            legacy_graph=str(self._bundle.artifact_file(self._float32()).resolve()),
            precision=attempt.precision,
            precision_plan=attempt.precision_plan,
            integers=attempt.integers,
            workspace=workspace * 2**20,
            optimization_level=self._request.optimization_level,
            timing_caches=str(cache_dir() / "timing") if self._backend.name == "tensorrt" else None,
            break_fusion=attempt.workaround == ATTENTION_BROKEN,
            gpu=self._gpu if self._backend.name == "tensorrt" else None,
            plan=str(folder / PLAN),
        )

    def _warn(self, version: str, attempt: Attempt) -> None:
        graph = attempt.artifact.graph if attempt.artifact is not None else None
        operators = graph.nodes if graph is not None else ()
        for issue in concerning(machine_of(self._backend.name, version, self._gpu), attempt.precision, operators):
            self._progress.note(str(issue))

    def _warn_of_memory(self, artifact: Artifact, workspace: int) -> None:
        shared = self._gpu is None or self._gpu.integrated
        warning = shortage(artifact, workspace, available_memory()[0]) if shared else None
        if warning:
            self._progress.note(warning)

    def _float32(self) -> Artifact:
        return next(one for one in self._bundle.manifest.artifacts if one.name == "onnx/fp32")

    def _self_test(self, folder: Path, record: EngineRecord) -> BackendParity | None:
        """Golden frames through the engine as it will be run; None where nothing can run it.

        Raises EngineBuildError after keeping an engine aside that does not run, or takes its process down.
        """
        if self._gpu is None:
            return None
        golden = [ReferenceFrame(item.name, self._bundle.file(item.file)) for item in self._bundle.manifest.golden]
        contract = self._bundle.manifest.contract
        backend, plan = self._backend.name, folder / PLAN
        try:
            return check_backend(
                backend, plan, contract, record.precision, golden, REFERENCE, self._progress, timed=True
            )
        except (BackendCrashed, EngineRunError, BundleError) as error:
            self._keep(folder, record.model_copy(update={"state": State.FAILED}))
            raise EngineBuildError(f"the engine was built and does not run: {error.message}") from error

    def _keep(self, folder: Path, record: EngineRecord) -> FoundEngine:
        """Put the engine in its place: beside the usable ones, or aside when it failed."""
        name = record.precision + (FAILED_SUFFIX if record.state is State.FAILED else "")
        target = self._root / engines.folder_name(record.machine) / name
        engines.write_record(folder, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        publish.flush(folder)
        publish.put_in_place(folder, target)
        return FoundEngine(target / PLAN, record)

    def _remember(self, engine: FoundEngine) -> None:
        """The verdict ``auto`` goes by."""
        verdict = engine.record.self_test
        if verdict is None or engine.record.state is State.FAILED:
            return
        local = local_results.LocalVerdict(
            backend=self._backend.name,
            precision=engine.record.precision,
            artifact=engine.record.engine.sha256,
            host=local_results.host(self._backend),
            version=self._backend.version or "unknown",
            verdict=verdict,
            p50_ms=engine.record.measured_ms,
        )
        if local_results.save(self._bundle, local) is None:
            self._progress.note("the verdict could not be stored: neither the bundle nor the cache can be written")


def _tested(record: EngineRecord, parity: BackendParity | None, final: bool) -> EngineRecord:
    if parity is None:
        return record
    passed = State.PUBLISHED if final else State.CANDIDATE
    return record.model_copy(
        update={
            "state": passed if parity.verdict.passed else State.FAILED,
            "self_test": parity.verdict,
            "measured_ms": parity.latency.p50 if parity.latency else None,
        }
    )


def _built_already(bundle: Bundle, backend: Backend, planned: list[Attempt], gpu: Gpu | None) -> BuildReport | None:
    """The engine that trying again would lead to: one whose predecessors failed here, or have no graph.

    A candidate is built anew, and tested, where there is a GPU.
    """
    failed = engines.rejected_here(bundle, backend, State.FAILED)
    for attempt in planned:
        found = engines.find(bundle, backend, attempt.precision)
        if found is None or found.record.settings.workaround != attempt.workaround:
            artifact = attempt.artifact
            if artifact is None or artifact.state is State.FAILED or attempt.precision in failed:
                continue
            return None
        if found.record.state is State.CANDIDATE and gpu is not None:
            return None
        local = local_results.load(bundle).get((backend.name, attempt.precision))
        verdict: Verdict | str = (local.verdict if local else found.record.self_test) or "not tested yet"
        return BuildReport(found, (Outcome(str(attempt), "there already", str(verdict)),), None)
    return None


def _advance(progress: Progress, steps: int) -> None:
    for _ in range(steps):
        progress.step()
