"""Runs one artefact over prepared inputs in a process of its own (``isolated.py``)."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.backends import get_backend, load_runtime
from runtimes.contract import ModelContract, Record
from runtimes.isolated import report, run_isolated, serve
from runtimes.measure import Measurement, measure


class Job(Record):
    """What to run."""

    backend: str
    """Backend name."""
    path: str
    """Artefact file, or what the backend opens instead."""
    contract: ModelContract
    """Boundary of the artefact."""
    precision: str
    """Precision of the artefact."""
    threads: int
    """Compute threads; 0 for the default."""
    frames: tuple[str, ...]
    """npz files that hold the inputs by name."""
    outputs: tuple[str, ...]
    """npy files to write the raw output to, one per frame."""
    timed: bool = False
    """Measure latency on the first frame afterwards."""


class Outcome(Record):
    """What a job reports when it is done."""

    description: dict[str, Any]
    """``Description`` as a mapping."""
    latency: Measurement | None
    """Milliseconds per call, inference only; None when not asked for."""


def run_job(job: Job, on_frame: Callable[[], None] = lambda: None) -> Outcome:
    """Run a job; ``on_frame`` is called after each frame. Raises what the backend raises."""
    what = f"backend '{job.backend}' running {Path(job.path).name}"
    return Outcome.model_validate(run_isolated("runtimes.worker", job, what, lambda message: on_frame()))


def _work(text: str) -> Outcome:
    job = Job.model_validate_json(text)
    runtime = load_runtime(get_backend(job.backend), Path(job.path), job.contract, job.precision, job.threads)
    first: dict[str, Any] = {}
    for frame, output in zip(job.frames, job.outputs, strict=True):
        with np.load(frame, allow_pickle=False) as arrays:
            inputs = {spec.name: arrays[spec.name] for spec in job.contract.inputs}
        first = first or inputs
        np.save(output, runtime(inputs)[job.contract.outputs[0].name], allow_pickle=False)
        report({"frame": frame})
    latency = measure({job.backend: lambda: runtime(first)})[job.backend] if job.timed and first else None
    return Outcome(description=asdict(runtime.describe()), latency=latency)


if __name__ == "__main__":
    serve(_work)
