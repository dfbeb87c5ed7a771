"""Seeded weights as a checkpoint file: ``python -m benchmarks.seeded_checkpoint MODEL CAMERA OUT.pt``."""

import sys

import torch

from cdm_export.reference_model.random_weights import calibrate_range, seeded_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.processing import preprocess
from cdm_export.runtimes.sources import open_source


def save_seeded(model: str, camera: Size, path: str, seed: int = 0) -> None:
    """Write ``{"model": state_dict}``, calibrated on the sample frame at ``camera``."""
    variant = get_variant(model)
    contract = variant.contract(model, camera)
    inputs = preprocess(open_source("sample", camera=camera).load(0).frame, contract)
    tensors = tuple(torch.from_numpy(inputs[spec.name]) for spec in contract.inputs)
    network = seeded_network(variant, seed)
    calibrate_range(network, variant, contract.channel_order, tensors, seed)
    torch.save({"model": network.state_dict()}, path)


if __name__ == "__main__":
    save_seeded(sys.argv[1], Size.parse(sys.argv[2]), sys.argv[3])
