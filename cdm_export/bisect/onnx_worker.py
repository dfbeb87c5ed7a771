"""Runs a graph that shows stages, in a process of its own (``runtimes/isolated.py``)."""

from pathlib import Path

import numpy as np

from cdm_export.runtimes.backends import get_backend, load_runtime
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import ModelContract, Record
from cdm_export.runtimes.isolated import run_isolated, serve
from cdm_export.tensorrt.debug_engine import engine_exposing


class ShowJob(Record):
    """What to run."""

    backend: str
    """Backend name."""
    path: str
    """ONNX file."""
    contract: ModelContract
    """Its interface, stages among the outputs."""
    precision: str
    """What to compute in."""
    threads: int
    """Compute threads; 0 for the default."""
    frame: str
    """npz file that holds the inputs by name."""
    folder: str
    """Where one npy file per output goes."""


class Shown(Record):
    """What was written."""

    files: dict[str, str]
    """npy file by name of the output."""


def show(job: ShowJob) -> dict[str, str]:
    """npy file by name of the output. Raises what the backend raises, BackendCrashed when it dies."""
    what = f"backend '{job.backend}' exposing stages of {Path(job.path).name}"
    done = run_isolated(__name__, job, what, lambda message: None)
    return Shown.model_validate(done).files


def _work(text: str) -> Shown:
    job = ShowJob.model_validate_json(text)
    backend, path = get_backend(job.backend), Path(job.path)
    if backend.engine:
        path = engine_exposing(path, job.contract, job.backend, job.precision, Path(job.folder))
    runtime = load_runtime(backend, path, job.contract, job.precision, job.threads)
    with np.load(job.frame, allow_pickle=False) as arrays:
        inputs = {spec.name: arrays[spec.name] for spec in job.contract.inputs}
    files = {}
    for index, (name, array) in enumerate(runtime(inputs).items()):
        files[name] = str(Path(job.folder) / f"{index:03d}.npy")
        with naming(Path(files[name])):
            np.save(files[name], array, allow_pickle=False)
    return Shown(files=files)


if __name__ == "__main__":
    serve(_work)
