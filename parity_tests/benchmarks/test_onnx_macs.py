"""Multiply-adds counted in the graph are those PyTorch does."""

import pytest
import torch

from benchmarks.onnx_macs import count_macs
from cdm_export.onnx.convert import export_onnx
from cdm_export.transforms import rules_of, specialize
from parity_tests.cdm_export.transforms.test_transforms import multiply_adds


@pytest.mark.parametrize("batch", [1, 2])
def test_graph_and_network_agree(mini_variant, contract, tmp_path, batch):
    contract = contract.batched(batch)
    network = mini_variant.exportable(mini_variant.build(), "bgr").eval().requires_grad_(False)
    specialize(network, contract.network, rules_of(mini_variant))
    export_onnx(network, contract, tmp_path / "x.onnx")
    expected = multiply_adds(network, [torch.zeros(spec.shape) for spec in contract.inputs])
    assert expected > 1e6 and count_macs(tmp_path / "x.onnx") == expected
