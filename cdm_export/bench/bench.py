"""Every backend that can run a bundle here, each in a fresh process, one frame of each in turn."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm_export.bench.environment import conditions, environment
from cdm_export.bench.result import BenchResult, Entry
from cdm_export.bench.statistics import mean_interval, paired_ratio
from cdm_export.bench.worker import BenchJob
from cdm_export.progress import Progress
from runtimes import sidecar
from runtimes.backends import BACKENDS, get_backend
from runtimes.bundle import Bundle, Provenance
from runtimes.contract import Size
from runtimes.errors import BackendUnavailable, CdmExportError, InputError, ParityError
from runtimes.isolated import Child
from runtimes.measure import Turns, summarise
from runtimes.selection import Choice, check_precision, choose, executions

_BASELINE = ("onnxruntime", "fp32")
"""What ratios refer to where it runs; else the first that does."""
_LEAST, _MOST = 5, 100_000


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


@dataclass
class _Runner:
    """One candidate at work."""

    choice: Choice
    threads: int
    child: Child
    cold: dict[str, Any] = field(default_factory=dict)
    stages: list[dict[str, float]] = field(default_factory=list)
    """Of every call, warm-up included."""
    memory: dict[str, float | None] = field(default_factory=dict)

    def frame(self, number: int) -> float:
        """One frame; its total, ms."""
        answer = self.child.ask({"round": number})
        self.stages.append(answer["stages"])
        for key in ("rss_anon_mb", "peak_rss_mb"):
            known = [value for value in (self.memory.get(key), answer[key]) if value is not None]
            self.memory[key] = max(known) if known else None
        return self.stages[-1]["total"]


def bench_bundle(request: BenchRequest, progress: Progress) -> BenchResult:
    """Time everything in turns.

    Interrupted (KeyboardInterrupt) after a full round, what was timed so far is returned, marked incomplete; before,
    the interrupt is raised. Raises BundleError, InputError, BackendUnavailable (nothing to run).
    """
    if request.frames is not None and request.frames < 1:
        raise InputError(f"--frames must be at least 1, got {request.frames}")
    if not (request.seconds > 0 and request.idle_ms >= 0):
        raise InputError(f"--seconds must be above 0 and --idle not negative, got {request.seconds}, {request.idle_ms}")
    bundle = Bundle.open(request.bundle)
    golden = [str(bundle.file(frame.file)) for frame in bundle.manifest.golden]
    choices, skipped = _choices(bundle, request)
    failed: dict[str, str] = {}
    before = conditions()
    with ExitStack() as stack:
        runners: dict[str, _Runner] = {}
        for choice in choices:
            for threads in request.threads:
                name = _name(choice, threads)
                progress.stage(f"{name}: cold start")
                job = BenchJob(
                    bundle=str(bundle.path),
                    backend=choice.backend.name,
                    precision=choice.precision,
                    threads=threads,
                    checkpoint=str(request.checkpoint) if request.checkpoint else None,
                    frames=tuple(golden),
                )
                try:
                    child = stack.enter_context(Child("cdm_export.bench.worker", job, name))
                    runners[name] = _Runner(choice, threads, child, child.receive())
                except BackendUnavailable as error:
                    if request.backend != "auto":
                        raise
                    skipped[name] = error.message
                except CdmExportError as error:
                    failed[name] = error.message
        number = 0

        def call(runner: _Runner) -> Callable[[], float]:
            def timed() -> float:
                time.sleep(request.idle_ms / 1e3)
                return runner.frame(number)

            return timed

        turns = Turns({name: call(runner) for name, runner in runners.items()})
        complete = True
        try:
            progress.stage("warm-up")
            turns.warm_up()
            least, most = (request.frames, request.frames) if request.frames else (_LEAST, _MOST)
            planned = turns.planned(request.seconds, least, most)
            progress.stage(f"{planned} rounds of {len(runners) - len(turns.failed)} in turn", planned)
            for done in turns.rounds(planned):
                number = done + 1
                progress.step()
        except KeyboardInterrupt:
            if not number:
                raise
            complete = False
        after = conditions()
        failed |= {name: error.message for name, error in turns.failed.items()}
        timed = {name: runner for name, runner in runners.items() if name not in failed}
        if not timed:
            raise BackendUnavailable(
                f"{bundle.path}: nothing could be timed here: "
                + "; ".join(f"{name}: {why}" for name, why in {**skipped, **failed}.items()),
                "See: cdm-export doctor",
            )
        entries = _entries(timed, turns, number)
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
        complete=complete,
        baseline=_baseline(timed),
        entries=entries,
        skipped=skipped,
        failed=failed,
        environment={**environment(), "before": before, "after": after},
    )
    _remember(bundle, result, progress)
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
        for _, precision in executions(bundle, backend):
            if request.precision not in ("auto", precision):
                continue
            name = f"{backend.name} {precision}"
            if not backend.installed:
                skipped[name] = f"not installed; add it with: {backend.install}"
                continue
            try:
                choices.append(choose(bundle, backend.name, precision))
            except (ParityError, BackendUnavailable) as error:
                if request.backend != "auto" and request.precision != "auto":
                    raise
                skipped[name] = error.message
    return choices, skipped


def _name(choice: Choice, threads: int) -> str:
    return f"{choice.backend.name} {choice.precision}" + (f" x{threads}" if threads else "")


def _baseline(timed: dict[str, _Runner]) -> str:
    named = [
        name for name, runner in timed.items() if (runner.choice.backend.name, runner.choice.precision) == _BASELINE
    ]
    return (named or list(timed))[0]


def _entries(timed: dict[str, _Runner], turns: Turns, rounds: int) -> tuple[Entry, ...]:
    """``rounds`` full ones; what an interrupt cut off is left out, so that pairs stay pairs."""
    samples = {name: turns.timed[name][:rounds] for name in timed}
    baseline = samples[_baseline(timed)]
    entries = []
    for name, runner in timed.items():
        warm = len(turns.warm[name])
        stages = {
            stage: summarise(
                [call[stage] for call in runner.stages[:warm]],
                [call[stage] for call in runner.stages[warm : warm + rounds]],
            )
            for stage in runner.stages[0]
        }
        entries.append(
            Entry(
                backend=runner.choice.backend.name,
                precision=runner.choice.precision,
                threads=runner.threads,
                description=runner.cold["description"],
                verdict=runner.choice.verdict,
                verified_here=runner.choice.local,
                open_ms=runner.cold["open_ms"],
                first_ms=runner.cold["first_ms"],
                stages=stages,
                mean=mean_interval(samples[name]),
                ratio=paired_ratio(samples[name], baseline),
                rss_anon_mb=runner.memory["rss_anon_mb"],
                peak_rss_mb=runner.memory["peak_rss_mb"] or 0.0,
                samples_ms=tuple(round(value, 4) for value in samples[name]),
            )
        )
    return tuple(entries)


def _weights(provenance: Provenance) -> str:
    if provenance.random_weights is not None:
        return f"seeded random weights (seed {provenance.random_weights.seed})"
    return f"{provenance.checkpoint}, sha256 {provenance.sha256[:16]}"


def _remember(bundle: Bundle, result: BenchResult, progress: Progress) -> None:
    """Keep the result for ``report``, and give ``auto`` the latencies of what was verified here."""
    if sidecar.save_bench(bundle, result.model_dump_json(indent=1)) is None:
        progress.note("the result could not be stored: neither the bundle nor the cache can be written")
    known = sidecar.load(bundle)
    for entry in result.entries:
        local = known.get((entry.backend, entry.precision))
        if local is not None and not entry.threads:
            sidecar.save(bundle, local.model_copy(update={"p50_ms": entry.stages["inference"].p50}))
