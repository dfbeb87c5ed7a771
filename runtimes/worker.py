"""Runs one artefact over prepared inputs in a process of its own: ``python -m runtimes.worker JOB.json``.

A backend that crashes, leaks or grabs memory must not take the caller with it. Reports one JSON object per line on
standard output: ``{"frame": i}`` as outputs are written, at last ``{"done": ...}`` or ``{"error": ...}``.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.backends import get_backend, load_runtime
from runtimes.contract import ModelContract, Record
from runtimes.errors import BackendUnavailable, CdmExportError
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


def run_job(job: Job, folder: Path, on_frame: Callable[[int], None] = lambda index: None) -> Outcome:
    """Run a job in a fresh process; ``folder`` takes its job file.

    Raises the worker's own error when it reported one, BackendUnavailable when it died without a word.
    """
    job_file = folder / f"job-{job.backend}.json"
    job_file.write_text(job.model_dump_json())
    # -I would drop PYTHONPATH, which is how some devices expose vendor packages.
    process = subprocess.Popen(
        [sys.executable, "-m", "runtimes.worker", str(job_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    outcome: Outcome | None = None
    try:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library's chatter
            if "frame" in message:
                on_frame(message["frame"])
            elif "done" in message:
                outcome = Outcome.model_validate(message["done"])
            elif "error" in message:
                _raise(message["error"])
        errors = process.stderr.read()
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if outcome is None or code != 0:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = " | ".join(errors.strip().splitlines()[-3:])
        raise BackendUnavailable(
            f"backend '{job.backend}' {how} while running {Path(job.path).name}: {tail or 'no message'}"
        )
    return outcome


def _raise(error: dict[str, Any]) -> None:
    import runtimes.errors

    kind = getattr(runtimes.errors, error["type"], CdmExportError)
    raise kind(error["message"], error["next_step"])


def _report(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main(job_file: str) -> int:
    """Entry point of the process."""
    job = Job.model_validate_json(Path(job_file).read_text())
    try:
        runtime = load_runtime(get_backend(job.backend), Path(job.path), job.contract, job.precision, job.threads)
        first: dict[str, Any] = {}
        for index, (frame, output) in enumerate(zip(job.frames, job.outputs, strict=True)):
            with np.load(frame, allow_pickle=False) as arrays:
                inputs = {spec.name: arrays[spec.name] for spec in job.contract.inputs}
            first = first or inputs
            np.save(output, runtime(inputs)[job.contract.outputs[0].name], allow_pickle=False)
            _report({"frame": index})
        latency = measure({job.backend: lambda: runtime(first)})[job.backend] if job.timed and first else None
        outcome = Outcome(description=asdict(runtime.describe()), latency=latency)
        _report({"done": outcome.model_dump(mode="json")})
    except CdmExportError as error:
        _report({"error": {"type": type(error).__name__, "message": error.message, "next_step": error.next_step}})
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
