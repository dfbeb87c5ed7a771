"""INT8 is kept where it is faster than whatever else passed its gate: a frame of each in turn, each in its process."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cdm_export.bench.interleaved import RunPlan, run_interleaved
from cdm_export.bench.statistics import paired_ratio
from cdm_export.bench.worker import Done, serve_frames
from cdm_export.progress import Progress
from cdm_export.runtimes.backends import get_backend, load_runtime
from cdm_export.runtimes.contract import INTEGER, ModelContract, Record
from cdm_export.runtimes.isolated import Child, serve
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.quantization import SpeedComparison

_SECONDS = 6.0
"""Timed seconds of each path."""


class ExecutionPath(Record):
    """Backend, precision and file: one path to run the network."""

    backend: str
    """Backend name."""
    precision: str
    """What it computes in."""
    file: Path
    """What it opens."""

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


class SpeedGateJob(Record):
    """What a process opens."""

    path: ExecutionPath
    """How to run."""
    contract: ModelContract
    """The interface."""
    frames: tuple[str, ...]
    """Reference frames, npz."""


def compare_speed(
    paths: Sequence[ExecutionPath], contract: ModelContract, frames: Sequence[Path], progress: Progress
) -> SpeedComparison | None:
    """The fastest INT8 path against the fastest other one; None when either kind has none that ran to the end.

    Raises KeyboardInterrupt when it is interrupted, however far it came: half a comparison decides nothing.
    """
    starts = {}
    for path in paths:
        job = SpeedGateJob(path=path, contract=contract, frames=tuple(map(str, frames)))
        starts[str(path)] = partial(Child, __name__, job, f"'{path}'")
    outcome = run_interleaved(starts, RunPlan(seconds=_SECONDS), progress)
    if not outcome.complete:
        raise KeyboardInterrupt
    finished = outcome.finished
    kinds = {str(path): path.precision in INTEGER for path in paths}

    def fastest(integer: bool) -> str | None:
        times = {name: np.median(done.samples_ms) for name, done in finished.items() if kinds[name] is integer}
        return min(times, key=lambda name: float(times[name])) if times else None

    int8, other = fastest(True), fastest(False)
    if int8 is None or other is None:
        return None
    samples, baseline = finished[int8].samples_ms, finished[other].samples_ms
    ratio, low, high = paired_ratio(samples, baseline)
    return SpeedComparison(
        int8=int8,
        other=other,
        int8_ms=round(float(np.median(samples)), 3),
        other_ms=round(float(np.median(baseline)), 3),
        ratio=round(ratio, 4),
        interval=(round(low, 4), round(high, 4)),
    )


def _work(text: str) -> Done:
    job = SpeedGateJob.model_validate_json(text)
    path, contract = job.path, job.contract

    def open_pipeline() -> DepthPipeline:
        return DepthPipeline(load_runtime(get_backend(path.backend), path.file, contract, path.precision), contract)

    return serve_frames(open_pipeline, job.frames)


if __name__ == "__main__":
    serve(_work)
