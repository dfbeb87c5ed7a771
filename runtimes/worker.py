"""Runs one artifact over prepared inputs in a process of its own (``isolated.py``)."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cdm_export.runtimes.backends import get_backend, load_runtime
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import ModelContract, Record
from cdm_export.runtimes.isolated import report, run_isolated, serve
from cdm_export.runtimes.measure import Measurement, measure
from cdm_export.runtimes.processing import stacked
from cdm_export.runtimes.runtime import Tensors


class Job(Record):
    """What to run."""

    backend: str
    """Backend name."""
    path: str
    """Artifact file, or what the backend opens instead."""
    contract: ModelContract
    """GraphInterface of the artifact."""
    precision: str
    """Precision of the artifact."""
    threads: int
    """Compute threads; 0 for the default."""
    frames: tuple[str, ...]
    """npz files that hold the inputs by name; at least as many as go in at once."""
    outputs: tuple[str, ...]
    """npy files to write the raw output to, one per frame."""
    timed: bool = False
    """Measure latency on the first frames afterwards."""


class Outcome(Record):
    """What a job reports when it is done."""

    description: dict[str, Any]
    """``Description`` as a mapping."""
    latency: Measurement | None
    """Milliseconds per call, inference only; None when not asked for."""


def run_job(job: Job, on_frame: Callable[[], None] = lambda: None) -> Outcome:
    """Run a job; ``on_frame`` is called after each frame. Raises what the backend raises."""
    what = f"backend '{job.backend}' running {Path(job.path).name}"
    return Outcome.model_validate(run_isolated(__name__, job, what, lambda message: on_frame()))


def _work(text: str) -> Outcome:
    job = Job.model_validate_json(text)
    runtime = load_runtime(get_backend(job.backend), Path(job.path), job.contract, job.precision, job.threads)
    batch, first = job.contract.batch, None
    for start in range(0, len(job.frames), batch):
        # The last call is filled up from the beginning: every frame of a call is another one.
        indices = [(start + place) % len(job.frames) for place in range(batch)]
        inputs = stacked([_inputs(job, job.frames[index]) for index in indices])
        first = first or inputs
        raw = runtime(inputs)[job.contract.output.name]
        for place, output in enumerate(job.outputs[start : start + batch]):
            with naming(Path(output)):
                np.save(output, raw[place : place + 1], allow_pickle=False)
            report({"frame": job.frames[start + place]})
    latency = measure({job.backend: lambda: runtime(first)})[job.backend] if job.timed and first else None
    return Outcome(description=asdict(runtime.describe()), latency=latency)


def _inputs(job: Job, frame: str) -> Tensors:
    with np.load(frame, allow_pickle=False) as arrays:
        return {spec.name: arrays[spec.name] for spec in job.contract.inputs}


if __name__ == "__main__":
    serve(_work)
