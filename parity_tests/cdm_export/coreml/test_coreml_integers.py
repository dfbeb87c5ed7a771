"""Integers in packages: compressed weights and 8-bit activations as the Core ML interpreter unpacks and rounds them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("coremltools")

from cdm_export.coreml.convert import import_coremltools
from cdm_export.coreml.palette import palette
from parity_tests.coreml_operation import close, quick, random, run

# --- weights ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1), st.integers(-3, 3))
@quick
def test_affine_weights(axis, zero):
    data = torch.randint(-128, 128, (4, 6)).to(torch.int8)
    scale = torch.rand(data.shape[axis]) + 0.1
    operands = {"quantized_data": data, "zero_point": zero, "scale": scale, "axis": axis}
    expected = (data.numpy().astype(float) - zero) * np.expand_dims(scale.numpy(), 1 - axis)
    close(run("constexpr_affine_dequantize", operands), torch.from_numpy(expected))


def test_blockwise_weights():
    data = torch.randint(-8, 8, (4, 6)).to(torch.int8)
    scale, offset = torch.rand(2, 3) + 0.1, torch.randint(-3, 3, (2, 3)).to(torch.int8)
    expected = (data.double() - offset.double().kron(torch.ones(2, 2))) * scale.double().kron(torch.ones(2, 2))
    close(run("constexpr_blockwise_shift_scale", {"data": data, "scale": scale, "offset": offset}), expected)


def test_palettes():
    table = random(2, 3, 4, 1)  # a table for each of 2 x 3 blocks
    indices = torch.randint(0, 4, (4, 6)).to(torch.uint8)
    got = run("constexpr_lut_to_dense", {"indices": indices, "lut": table})
    for i in range(4):
        for j in range(6):
            assert got[i, j] == table[i // 2, j // 2, int(indices[i, j]), 0]


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_packed_palettes(bits):
    """What coremltools packs for macOS 13 is what is unpacked."""
    import_coremltools()
    from coremltools.optimize import _utils

    indices = np.random.default_rng(0).integers(0, 2**bits, 21).astype(np.uint8)
    table = np.linspace(-1, 1, 2**bits, dtype=np.float32)
    packed = _utils.pack_elements_into_bits(indices, bits)
    operands = {
        "indices": torch.from_numpy(packed), "lut": torch.from_numpy(table), "shape": torch.tensor([3, 7])
    }  # fmt: skip
    close(run("constexpr_lut_to_dense", operands), torch.from_numpy(table[indices].reshape(3, 7)), 0)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palette_of_weights(bits):
    """No worse than equal steps between the extremes, and every weight has the nearest value."""
    weights = np.random.default_rng(1).standard_normal(4000).astype(np.float16)
    table, indices = palette(weights, bits)
    assert table.shape == (2**bits,) and table.dtype == np.float16 and np.all(np.diff(table.astype(float)) >= 0)
    nearest = np.abs(weights.astype(float)[:, None] - table.astype(float)).min(axis=1)
    error = np.abs(weights.astype(float) - table[indices])
    np.testing.assert_allclose(error, nearest, atol=1e-9)
    steps = np.linspace(weights.min(), weights.max(), 2**bits)
    even = np.abs(weights.astype(float)[:, None] - steps).min(axis=1)
    assert np.square(error).sum() < np.square(even).sum()


def test_palette_of_few_values_is_exact():
    weights = np.array([[3.0, -1.0], [3.0, 0.5]], np.float16)
    table, indices = palette(weights, 4)
    np.testing.assert_array_equal(table[indices].reshape(2, 2), weights)


# --- activations ------------------------------------------------------------------------------------------------------


@given(st.floats(1e-3, 10), st.sampled_from(["int8", "uint8"]), st.integers(0, 20), st.booleans())
@quick
def test_activations_in_steps(scale, kind, zero, has_zero):
    x = random(4, 50, scale=30)
    x[0, :4] = scale * torch.tensor([0.5, 1.5, -0.5, 1e6])  # halves go to the even integer, what is too large stays
    zeros, zero = ({"zero_point": zero}, zero) if has_zero else ({}, 0)
    levels = run("quantize", {"input": x, "scale": scale, "output_dtype": kind, **zeros})
    got = run("dequantize", {"input": levels, "scale": scale, **zeros})
    low, high = {"int8": (-128, 127), "uint8": (0, 255)}[kind]
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, low, high)
    differs = (got - expected).abs() > scale / 2  # PyTorch multiplies by 1 / scale: a half may fall on the other side
    assert torch.all(((x / scale)[differs].frac().abs() - 0.5).abs() < 1e-3) and differs.sum() <= 5
    close(got[~differs], expected[~differs])


def test_activations_in_steps_along_an_axis():
    x, scale, zero = random(3, 4), torch.tensor([0.1, 0.2, 0.4, 0.8]), torch.tensor([0, 1, -2, 3], dtype=torch.int8)
    operands = {"input": x, "scale": scale, "zero_point": zero, "axis": -1, "output_dtype": "int8"}
    got = run("quantize", operands)
    expected = [[round(float(x[i, j] / scale[j])) + int(zero[j]) for j in range(4)] for i in range(3)]
    assert got.tolist() == expected
    back = run("dequantize", {"input": got, "scale": scale, "zero_point": zero, "axis": -1})
    close(back, (torch.tensor(expected) - zero) * scale)
