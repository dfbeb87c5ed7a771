"""One backend in a process of its own: opened cold, then one frame whenever the parent asks (``isolated.py``)."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from cdm_export.bench.result import STAGES
from cdm_export.parity.golden import load_reference, raw_frame
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.frame import Timing
from cdm_export.runtimes.isolated import report, requests, serve
from cdm_export.runtimes.opening import open as open_bundle
from cdm_export.runtimes.pipeline import DepthPipeline


class BenchJob(Record):
    """What to open."""

    bundle: str
    """Bundle."""
    backend: str
    """Backend name."""
    precision: str
    """What to compute in."""
    batch: int = 1
    """Frames at once."""
    threads: int
    """Compute threads; 0 for the default."""
    checkpoint: str | None
    """For the torch reference only."""
    frames: tuple[str, ...]
    """Golden frames, npz."""


class Done(Record):
    """The parent has no more requests."""


def serve_frames(open_pipeline: Callable[[], DepthPipeline], paths: Sequence[str]) -> Done:
    """Open cold and report how long that took; then refine the golden frames ``paths`` in turn, one per request,
    or as many as go in at once.
    """
    frames = [raw_frame(load_reference(Path(path))) for path in paths]
    started = time.perf_counter()
    with open_pipeline() as pipeline:
        opened = time.perf_counter()
        batch = pipeline.contract.batch

        def refine(number: int) -> Timing:
            return pipeline.many([frames[(number * batch + place) % len(frames)] for place in range(batch)])[0].timing

        refine(0)
        first = time.perf_counter()
        report(
            {
                "open_ms": 1e3 * (opened - started),
                "first_ms": 1e3 * (first - opened),
                "description": asdict(pipeline.describe()),
            }
        )
        for request in requests():
            timing = refine(request["round"])
            stages = {stage: getattr(timing, stage) for stage in STAGES} | timing.device
            report({"stages": {**stages, "total": timing.total}, **memory()})
    return Done()


def _work(text: str) -> Done:
    job = BenchJob.model_validate_json(text)

    def open_pipeline() -> DepthPipeline:
        return open_bundle(
            job.bundle,
            job.backend,
            job.precision,
            batch=job.batch,
            warmup=False,
            threads=job.threads,
            checkpoint=job.checkpoint,
        )

    return serve_frames(open_pipeline, job.frames)


def memory() -> dict[str, float | None]:
    """Anonymous memory now, and the largest resident memory ever, 10^6 bytes."""
    anonymous = None
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                anonymous = int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on a Mac, KiB on Linux
    return {"rss_anon_mb": anonymous, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}


if __name__ == "__main__":
    serve(_work)
