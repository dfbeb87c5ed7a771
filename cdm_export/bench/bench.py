"""Every backend that can run a bundle here, each in a fresh process, one frame of each in turn."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cdm_export.bench.environment import conditions, environment
from cdm_export.bench.interleaved import Finished, Interleaved, RunPlan, run_interleaved
from cdm_export.bench.power import PowerMeter
from cdm_export.bench.remember import remember
from cdm_export.bench.result import BenchResult, Entry
from cdm_export.bench.statistics import mean_interval, paired_ratio
from cdm_export.bench.worker import BenchJob
from cdm_export.progress import Progress
from cdm_export.runtimes.backends import BACKENDS, Backend, get_backend, why_absent
from cdm_export.runtimes.bundle import Artifact, Bundle, Provenance
from cdm_export.runtimes.contract import Size, execution_name
from cdm_export.runtimes.errors import BackendUnavailable, InputError, ParityError
from cdm_export.runtimes.isolated import Child
from cdm_export.runtimes.machine_load import LoadWatch
from cdm_export.runtimes.opening import check_reader, reference_path
from cdm_export.runtimes.replaced import once_more_when_replaced
from cdm_export.runtimes.selection import Choice, check_precision, choose, executions

_BASELINE = ("onnxruntime", "fp32")
"""What ratios refer to where it runs; else the first that does."""

_LONGEST = 24 * 3600.0
"""Seconds of timing, and of a pause."""


@dataclass(frozen=True)
class BenchRequest:
    """What to time."""

    bundle: Path
    """Bundle."""
    backend: str = "auto"
    """One backend, or ``auto`` for every one that can run here."""
    precision: str = "auto"
    """One precision, or ``auto`` for all."""
    checkpoint: Path | None = None
    """Brings in the PyTorch reference of a bundle that was made from a checkpoint."""
    threads: tuple[int, ...] = (0,)
    """Numbers of compute threads, each timed; 0 for the library's default."""
    frames: int | None = None
    """Timed frames per backend; or ``seconds``."""
    seconds: float = 10.0
    """Timed seconds per backend, at least 5 frames."""
    idle_ms: float = 0.0
    """Pause before every timed frame: a camera's rhythm, or a rest against throttling."""


@once_more_when_replaced
def bench_bundle(request: BenchRequest, progress: Progress) -> BenchResult:
    """Time everything in turns.

    What was learned is kept for ``report`` and for ``auto``. A bundle that is replaced meanwhile is timed again from
    the beginning, once. Interrupted (KeyboardInterrupt) after a full round, what was timed so far is returned, marked
    incomplete; before, the interrupt is raised. Raises BundleError, InputError, BackendUnavailable (nothing to run).
    """
    if request.frames is not None and request.frames < 1:
        raise InputError(f"--frames must be at least 1, got {request.frames}")
    if not (request.seconds > 0 and request.idle_ms >= 0):
        raise InputError(f"--seconds must be above 0 and --idle not negative, got {request.seconds}, {request.idle_ms}")
    if not (request.seconds <= _LONGEST and request.idle_ms <= 1e3 * _LONGEST):
        raise InputError(f"--seconds and --idle are at most a day, got {request.seconds} s, {request.idle_ms} ms")
    bundle = Bundle.open(request.bundle)
    if request.checkpoint is not None:
        if request.backend != "auto":
            check_reader(get_backend(request.backend), request.checkpoint)
        reference_path(bundle, request.checkpoint)
    frames = tuple(str(bundle.file(golden.file)) for golden in bundle.manifest.golden)
    choices, skipped = _choices(bundle, request)
    candidates = {_name(choice, threads): (choice, threads) for choice in choices for threads in request.threads}
    before, watch = conditions(), LoadWatch()
    with PowerMeter() as meter, bundle.steady():
        raced = run_interleaved(
            {name: partial(_start, name, bundle, request, frames, *one) for name, one in candidates.items()},
            RunPlan(request.frames, request.seconds, request.idle_ms),
            progress,
        )
    after, load = conditions(), watch.load()
    if load.busy:
        progress.warn(str(load))
    failed: dict[str, str] = {}
    for name, error in raced.failed.items():
        if isinstance(error, BackendUnavailable) and request.backend != "auto":
            raise error
        (skipped if isinstance(error, BackendUnavailable) else failed)[name] = error.message
    if not raced.finished:
        raise BackendUnavailable(
            f"{bundle.path}: nothing could be timed here: "
            + "; ".join(f"{name}: {why}" for name, why in {**skipped, **failed}.items()),
            "See: cdm-export doctor",
        )
    baseline = _baseline(candidates, raced)
    contract = bundle.manifest.contract
    result = BenchResult(
        bundle=bundle.manifest.name,
        identity=bundle.identity,
        model=contract.model,
        camera=str(Size(*contract.camera)),
        network=str(Size(*contract.network)),
        weights=_weights(bundle.manifest.provenance),
        frames=tuple(frame.name for frame in bundle.manifest.golden),
        idle_ms=request.idle_ms,
        complete=raced.complete,
        baseline=baseline,
        entries=tuple(
            _entry(*candidates[name], finished, raced.finished[baseline], meter)
            for name, finished in raced.finished.items()
        ),
        skipped=skipped,
        failed=failed,
        warnings=(str(load),) if load.busy else (),
        environment={**environment(), "before": before, "after": after},
    )
    remember(bundle, result, progress)
    return result


def _choices(bundle: Bundle, request: BenchRequest) -> tuple[list[Choice], dict[str, str]]:
    """What to run, and what not and why."""
    check_precision(bundle, request.precision)
    wanted = [get_backend(request.backend)] if request.backend != "auto" else list(BACKENDS.values())
    choices: list[Choice] = []
    skipped: dict[str, str] = {}
    for backend in wanted:
        if backend.format == "checkpoint":
            if request.backend == backend.name or request.checkpoint is not None:
                choices.append(choose(bundle, backend.name))
            continue
        if backend.verifies_only and request.backend != backend.name:
            continue  # its speed says nothing
        absent = why_absent(backend)
        for artifact, precision in _runnable(bundle, backend):
            if request.precision not in ("auto", precision):
                continue
            name = f"{backend.name} {execution_name(precision, artifact.batch)}"
            if not backend.installed and request.backend == "auto":
                skipped[name] = f"not installed; add it with: {backend.install}"
                continue
            try:
                if absent is not None:
                    raise absent  # no process is started for what is known not to run here
                choices.append(choose(bundle, backend.name, precision, artifact.batch))
            except (ParityError, BackendUnavailable) as error:
                if request.backend != "auto" and (request.precision != "auto" or error is absent):
                    raise
                skipped[name] = error.message
    return choices, skipped


def _runnable(bundle: Bundle, backend: Backend) -> list[tuple[Artifact, str]]:
    return [pair for batch in bundle.manifest.batches for pair in executions(bundle, backend, batch)]


def _name(choice: Choice, threads: int) -> str:
    return choice.name + (f" x{threads}" if threads else "")


def _start(
    name: str, bundle: Bundle, request: BenchRequest, frames: tuple[str, ...], choice: Choice, threads: int
) -> Child:
    job = BenchJob(
        bundle=str(bundle.path),
        backend=choice.backend.name,
        precision=choice.precision,
        batch=choice.batch,
        threads=threads,
        checkpoint=str(request.checkpoint) if request.checkpoint and choice.artifact is None else None,
        frames=frames,
    )
    return Child("cdm_export.bench.worker", job, name)


def _baseline(candidates: dict[str, tuple[Choice, int]], raced: Interleaved) -> str:
    names = list(raced.finished)
    single = [name for name in names if candidates[name][0].batch == 1]
    wanted = [name for name in single if (candidates[name][0].backend.name, candidates[name][0].precision) == _BASELINE]
    return (wanted or single or names)[0]


def _entry(choice: Choice, threads: int, finished: Finished, baseline: Finished, meter: PowerMeter) -> Entry:
    runner = finished.runner
    return Entry(
        backend=choice.backend.name,
        precision=choice.precision,
        batch=choice.batch,
        threads=threads,
        description=runner.opened["description"],
        verdict=choice.verdict,
        verified_here=choice.local,
        open_ms=runner.opened["open_ms"],
        first_ms=runner.opened["first_ms"],
        stages=finished.stages,
        mean=mean_interval(finished.samples_ms),
        ratio=paired_ratio([ms / choice.batch for ms in finished.samples_ms], baseline.samples_ms),
        rss_anon_mb=runner.rss_anon_mb,
        peak_rss_mb=runner.peak_rss_mb,
        power=meter.power(finished.windows, choice.batch),
        samples_ms=tuple(round(value, 4) for value in finished.samples_ms),
    )


def _weights(provenance: Provenance) -> str:
    if provenance.random_weights is not None:
        return f"seeded random weights (seed {provenance.random_weights.seed})"
    return f"{provenance.checkpoint}, sha256 {provenance.sha256[:16]}"
