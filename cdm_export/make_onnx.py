"""Everything of an export that needs PyTorch, in a process of its own (``runtimes/isolated.py``).

Reference outputs first, then the rewrites in place, then ONNX: the large model exists once, and all its memory is
returned before the first backend verifies. Freeing it inside one process left 1.1 x the weights in the allocator.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdm_export.golden import load_reference, save_output
from cdm_export.onnx_export import export_onnx
from cdm_export.progress import Progress
from reference_model.registry import get_variant
from reference_model.variant import Variant
from runtimes.bundle import Provenance
from runtimes.contract import ModelContract, Record
from runtimes.isolated import report, run_isolated, serve

if TYPE_CHECKING:
    from torch import nn


class MakeJob(Record):
    """What to make."""

    contract: ModelContract
    """Model, sizes and channel order."""
    checkpoint: str | None
    """Checkpoint file; or ``random_weights``."""
    random_weights: int | None
    """Seed; or ``checkpoint``."""
    frames: tuple[str, ...]
    """npz files with the network's inputs; the reference's output is added to them."""
    onnx: str
    """ONNX file to write."""


class Made(Record):
    """What was made."""

    provenance: Provenance
    """Where the weights came from."""
    rewrites: dict[str, int]
    """Exact rewrites, and how many modules each replaced."""
    versions: dict[str, str]
    """Libraries that made the ONNX file."""


def make_onnx(job: MakeJob, progress: Progress) -> Made:
    """Run the job. Raises CheckpointError for a checkpoint that cannot be used."""

    def on_message(message: dict[str, object]) -> None:
        if "stage" in message:
            progress.stage(str(message["stage"]), int(str(message["steps"])))
        elif "note" in message:
            progress.note(str(message["note"]))
        elif "step" in message:
            progress.step()

    return Made.model_validate(run_isolated("cdm_export.make_onnx", job, "PyTorch, exporting the model,", on_message))


def _work(text: str) -> Made:
    from cdm_export.transforms import specialise
    from reference_model.config import PATCH
    from reference_model.reference import exact_float32, run_reference

    job = MakeJob.model_validate_json(text)
    contract = job.contract
    exact_float32()
    network, provenance = _load(job, get_variant(contract.model))
    boundary = get_variant(contract.model).on_boundary(network, contract.channel_order).eval()
    report({"stage": f"reference: eager PyTorch at {contract.network}", "steps": len(job.frames)})
    for frame in job.frames:
        raw = run_reference(boundary, contract, _inputs(frame, contract))[contract.outputs[0].name]
        save_output(Path(frame), Path(frame), contract, raw)
        report({"step": frame})
    report({"stage": "export to ONNX", "steps": 0})
    rewrites = specialise(boundary, contract.network.height // PATCH, contract.network.width // PATCH)
    versions = export_onnx(boundary, contract, Path(job.onnx))
    return Made(provenance=provenance, rewrites=rewrites, versions=versions)


def _load(job: MakeJob, variant: Variant) -> "tuple[nn.Module, Provenance]":
    if job.random_weights is not None:
        return _seeded(job, variant, job.random_weights)
    from reference_model.checkpoint import load_network

    assert job.checkpoint is not None
    path = Path(job.checkpoint)
    report({"stage": f"checkpoint {path.name}", "steps": 0})
    network, checkpoint, loaded = load_network(path, variant)
    for note in loaded.notes():
        report({"note": note})
    if checkpoint.ignored:
        report({"note": f"foreign Python objects in the file were not loaded: {', '.join(checkpoint.ignored)}"})
    return network, Provenance(
        checkpoint=path.name, sha256=checkpoint.sha256, random_weights=None, licence=variant.licence
    )


def _seeded(job: MakeJob, variant: Variant, seed: int) -> "tuple[nn.Module, Provenance]":
    import torch

    from reference_model.random_weights import calibrate_range, seeded_network, state_dict_sha256

    report({"stage": f"seeded random weights for {variant.name}", "steps": 0})
    report(
        {
            "note": f"random weights (seed {seed}), range-calibrated to 0.5-4 m: they prove the plumbing, "
            "the depth means nothing"
        }
    )
    network = seeded_network(variant, seed)
    inputs = _inputs(job.frames[0], job.contract)
    tensors = tuple(torch.from_numpy(inputs[spec.name]) for spec in job.contract.inputs)
    weights = calibrate_range(network, variant, job.contract.channel_order, tensors, seed)
    identity = state_dict_sha256(network)
    return network, Provenance(checkpoint=None, sha256=identity, random_weights=weights, licence="")


def _inputs(frame: str, contract: ModelContract) -> dict[str, NDArray[np.float32]]:
    arrays = load_reference(Path(frame))
    return {spec.name: arrays[spec.name] for spec in contract.inputs}


if __name__ == "__main__":
    serve(_work)
