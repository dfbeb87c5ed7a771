"""Processes that each refine a frame when asked, timed in turn; what they run is their own affair."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from cdm_export.bench.power import Window
from cdm_export.progress import Progress
from cdm_export.runtimes.errors import CdmExportError
from cdm_export.runtimes.isolated import Child
from cdm_export.runtimes.measure import Measurement, Turns, summarize

_LEAST, _MOST = 5, 100_000


@dataclass(frozen=True)
class RunPlan:
    """How long, and how fast after each other."""

    frames: int | None = None
    """Timed frames of each; or ``seconds``."""
    seconds: float = 10.0
    """Timed seconds of each, at least 5 frames."""
    idle_ms: float = 0.0
    """Pause before every frame."""


@dataclass
class Runner:
    """One process (see ``worker.serve_frames``), and what it said of every call."""

    child: Child
    """The process."""
    opened: dict[str, Any]
    """``open_ms``, ``first_ms`` and ``description``."""
    calls: list[dict[str, float]] = field(default_factory=list)
    """Milliseconds by stage, warm-up included."""
    windows: list[Window] = field(default_factory=list)
    """When each of ``calls`` began and ended."""
    rss_anon_mb: float | None = None
    """Largest anonymous memory after a frame, 10^6 bytes."""
    peak_rss_mb: float = 0.0
    """Largest resident memory ever, 10^6 bytes."""

    def frame(self, number: int) -> float:
        """Refine a frame; its total, ms. Raises as ``Child.receive``."""
        began = time.perf_counter()
        answer = self.child.ask({"round": number})
        self.windows.append((began, time.perf_counter()))
        self.calls.append(answer["stages"])
        self.peak_rss_mb = max(self.peak_rss_mb, answer["peak_rss_mb"])
        if answer["rss_anon_mb"] is not None:
            self.rss_anon_mb = max(self.rss_anon_mb or 0.0, answer["rss_anon_mb"])
        return self.calls[-1]["total"]


@dataclass(frozen=True)
class Finished:
    """One that lived to the end."""

    runner: Runner
    """Its process, which is gone."""
    stages: dict[str, Measurement]
    """By stage and ``total``, full rounds only, so that pairs stay pairs."""
    samples_ms: tuple[float, ...]
    """``total`` of every full round."""
    windows: tuple[Window, ...]
    """When the calls of every full round began and ended."""


@dataclass(frozen=True)
class Interleaved:
    """What came of it."""

    finished: dict[str, Finished]
    """By name, in order."""
    failed: dict[str, CdmExportError]
    """What did not open, or died."""
    complete: bool
    """False when it was interrupted after a full round."""


def run_interleaved(starts: Mapping[str, Callable[[], Child]], pace: RunPlan, progress: Progress) -> Interleaved:
    """Open all, warm each up, then a frame of each in turn.

    An interrupt (KeyboardInterrupt) after a full round ends the race, before that it is raised.
    """
    failed: dict[str, CdmExportError] = {}
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name, start in starts.items():
            progress.stage(f"{name}: cold start")
            child = stack.enter_context(start())
            try:
                runners[name] = Runner(child, child.receive())
            except CdmExportError as error:
                failed[name] = error
        rounds = 0

        def call(runner: Runner) -> Callable[[], float]:
            def timed() -> float:
                time.sleep(pace.idle_ms / 1e3)
                return runner.frame(rounds)

            return timed

        turns = Turns({name: call(runner) for name, runner in runners.items()})
        complete = True
        try:
            progress.stage("warm-up")
            turns.warm_up()
            least, most = (pace.frames, pace.frames) if pace.frames else (_LEAST, _MOST)
            planned = turns.planned(pace.seconds, least, most)
            progress.stage(f"{planned} rounds of {len(runners) - len(turns.failed)} in turn", planned)
            for done in turns.rounds(planned):
                rounds = done + 1
                progress.step()
        except KeyboardInterrupt:
            if not rounds:
                raise
            complete = False
    failed |= turns.failed
    finished = {name: _finished(runner, turns, name, rounds) for name, runner in runners.items() if name not in failed}
    return Interleaved(finished, failed, complete)


def _finished(runner: Runner, turns: Turns, name: str, rounds: int) -> Finished:
    warm = len(turns.warm[name])
    stages = {
        stage: summarize(
            [call[stage] for call in runner.calls[:warm]], [call[stage] for call in runner.calls[warm : warm + rounds]]
        )
        for stage in runner.calls[0]
    }
    windows = tuple(runner.windows[warm : warm + rounds])
    return Finished(runner, stages, tuple(turns.timed[name][:rounds]), windows)
