"""One peer in a process of its own, fed like a backend of ``bench``."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdm_export.bench.worker import Done, serve_frames
from cdm_export.reference_model.reference import run_reference
from cdm_export.reference_model.torch_runtime import load_exportable
from cdm_export.runtimes.backends import get_backend, load_runtime
from cdm_export.runtimes.contract import ModelContract, Record
from cdm_export.runtimes.host import cpu_name
from cdm_export.runtimes.isolated import serve
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.runtime import Description, Runtime, Tensors


class PeerJob(Record):
    """What to run."""

    peer: Literal["torch", "torch.compile", "onnxruntime", "openvino"]
    """Library."""
    path: str
    """Weights for PyTorch (checkpoint, or bundle of seeded weights), the plain ONNX export for the others."""
    contract: ModelContract
    """GraphInterface."""
    frames: tuple[str, ...]
    """Golden frames, npz."""


class _Compiled:
    """The original network through ``torch.compile``, default settings."""

    reuses_outputs = False

    def __init__(self, path: Path, contract: ModelContract) -> None:
        import torch

        self.contract = contract
        self._network = torch.compile(load_exportable(path, contract))

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        return run_reference(self._network, self.contract, inputs)  # type: ignore[arg-type]

    def describe(self) -> Description:
        import torch

        return Description(
            "torch.compile", "fp32", f"CPU ({cpu_name()})", "inductor", torch.get_num_threads(),
            {"torch": torch.__version__},
        )  # fmt: skip

    def close(self) -> None:
        pass


def _work(text: str) -> Done:
    job = PeerJob.model_validate_json(text)

    def open_pipeline() -> DepthPipeline:
        runtime: Runtime
        if job.peer == "torch.compile":
            runtime = _Compiled(Path(job.path), job.contract)
        else:
            runtime = load_runtime(get_backend(job.peer), Path(job.path), job.contract, "fp32")
        return DepthPipeline(runtime)

    return serve_frames(open_pipeline, job.frames)


if __name__ == "__main__":
    serve(_work)
