"""Every operation of the Core ML interpreter against PyTorch: a defect in it must not hide one in a package.

The programs are built by coremltools, saved, and read back as any package is; PyTorch computes the expected value by
another road than the interpreter wherever there is one.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("coremltools")

from cdm_export.coreml_export import import_coremltools
from cdm_export.coreml_reference.arithmetic import StrictHalf, Wide
from cdm_export.coreml_reference.call import Call
from cdm_export.coreml_reference.machine import KNOWN, execute
from cdm_export.coreml_reference.package import Operation, Program, Reference, ValueType, load_program
from cdm_export.palette import palette
from runtimes.errors import BundleError

quick = settings(max_examples=25, deadline=None)
sides = st.integers(1, 7)


def run(kind, operands, arithmetic=None, shapes=((),)):
    """One operation on its operands."""
    from cdm_export.coreml_reference import elementwise, layout, normalise, products, resize, weights

    tables = [module.OPERATIONS for module in (elementwise, layout, normalise, products, resize, weights)]
    operation = next(table[kind] for table in tables if kind in table)
    return operation(Call("it", kind, operands, shapes, arithmetic or Wide()))


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(got, expected, tolerance=1e-5):
    assert got.shape == expected.shape
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


# --- elementwise ------------------------------------------------------------------------------------------------------

UNARY = {
    "relu": lambda x: x.clamp(min=0),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "tanh": lambda x: (2 * x).exp().sub(1) / (2 * x).exp().add(1),
    "silu": lambda x: x / (1 + (-x).exp()),
    "erf": lambda x: torch.special.erf(x),
    "exp": lambda x: torch.tensor(np.exp(x.numpy())),
    "square": lambda x: x * x,
    "abs": lambda x: torch.where(x < 0, -x, x),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("kind", UNARY)
def test_unary(kind):
    x = random(3, 5).double()
    close(run(kind, {"x": x}), UNARY[kind](x), 1e-12)


def test_roots_and_inverses():
    x = random(4, 3).double().abs() + 0.1
    close(run("sqrt", {"x": x}), x**0.5, 1e-12)
    close(run("rsqrt", {"x": x, "epsilon": 0.5}), (x + 0.5) ** -0.5, 1e-12)
    close(run("inverse", {"x": x, "epsilon": 0.5}), 1 / (x + 0.5), 1e-12)
    close(run("clip", {"x": x, "alpha": 0.3, "beta": 0.9}), x.clamp(0.3, 0.9), 1e-12)
    close(run("leaky_relu", {"x": -x, "alpha": 0.2}), -0.2 * x, 1e-12)


@given(sides, sides, st.sampled_from(["add", "sub", "mul", "real_div", "maximum", "minimum", "pow"]))
@quick
def test_binary_broadcasts(rows, columns, kind):
    x, y = random(rows, columns).double().abs() + 0.1, random(columns, seed=1).double().abs() + 0.1
    expected = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "real_div": lambda a, b: a / b,
        "maximum": np.maximum,
        "minimum": np.minimum,
        "pow": lambda a, b: a**b,
    }[kind](x.numpy(), y.numpy())
    close(run(kind, {"x": x, "y": y}), torch.from_numpy(expected), 1e-12)


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu(mode):
    x = random(50, scale=3).double()
    expected = {
        "EXACT": x * 0.5 * (1 + torch.special.erf(x / math.sqrt(2))),
        "TANH_APPROXIMATION": 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "SIGMOID_APPROXIMATION": x / (1 + torch.exp(-1.702 * x)),
    }[mode]
    close(run("gelu", {"x": x, "mode": mode}), expected, 1e-12)
    with pytest.raises(BundleError, match="unknown mode"):
        run("gelu", {"x": x, "mode": "OTHER"})


def test_cast():
    x = torch.tensor([1.9, -1.9, 70000.0])
    assert run("cast", {"x": x, "dtype": "int32"}).tolist() == [1, -1, 70000]
    assert run("cast", {"x": x, "dtype": "fp16"}).tolist() == [torch.tensor(1.9).half().item(), -1.900390625, math.inf]


# --- products ---------------------------------------------------------------------------------------------------------


@given(sides, sides, sides, st.booleans())
@quick
def test_linear(rows, width, out, bias):
    x, weight, offset = random(2, rows, width), random(out, width, seed=1), random(out, seed=2)
    operands = {"x": x, "weight": weight} | ({"bias": offset} if bias else {})
    close(run("linear", operands), F.linear(x.double(), weight.double(), offset.double() if bias else None))


@given(sides, sides, sides, st.booleans(), st.booleans())
@quick
def test_matmul(rows, inner, columns, transpose_x, transpose_y):
    x, y = random(3, rows, inner), random(3, inner, columns, seed=1)
    given_x, given_y = (x.mT if transpose_x else x), (y.mT if transpose_y else y)
    operands = {"x": given_x, "y": given_y, "transpose_x": transpose_x, "transpose_y": transpose_y}
    close(run("matmul", operands), torch.einsum("bik,bkj->bij", x.double(), y.double()))


def slow_convolution(x, weight, bias, stride, pad, dilation, groups):
    """By its definition, one pixel at a time."""
    x = np.pad(x.double().numpy(), ((0, 0), (0, 0), (pad[0], pad[1]), (pad[2], pad[3])))
    weight = weight.double().numpy()
    reach = [dilation[axis] * (weight.shape[2 + axis] - 1) + 1 for axis in range(2)]
    rows, columns = ((x.shape[2 + axis] - reach[axis]) // stride[axis] + 1 for axis in range(2))
    out = np.zeros((x.shape[0], weight.shape[0], rows, columns))
    per_group = weight.shape[0] // groups
    for o in range(weight.shape[0]):
        seen = x[:, o // per_group * weight.shape[1] :][:, : weight.shape[1]]
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride[0], j * stride[1]
                window = seen[:, :, top : top + reach[0] : dilation[0], left : left + reach[1] : dilation[1]]
                out[:, o, i, j] = (window * weight[o]).sum(axis=(1, 2, 3)) + float(bias[o])
    return torch.from_numpy(out)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from([1, 2]),
    st.integers(1, 2),
)
@quick
def test_convolution(kernel, stride, pad, groups, dilation):
    x, weight, bias = random(1, 4, 7, 6), random(6, 4 // groups, *kernel, seed=1), random(6, seed=2)
    operands = {
        "x": x, "weight": weight, "bias": bias, "strides": torch.tensor(stride), "pad": torch.tensor(pad),
        "pad_type": "custom", "dilations": torch.tensor([dilation, dilation]), "groups": groups,
    }  # fmt: skip
    expected = slow_convolution(x, weight, bias, stride, pad, (dilation, dilation), groups)
    close(run("conv", operands), expected, 1e-4)
    strict = run("conv", operands, StrictHalf())
    close(strict, expected, 0.05)


@given(sides, st.integers(1, 5), st.integers(1, 3))
@quick
def test_same_padding_splits_as_it_is_called(side, kernel, stride):
    """``same`` gives ceil(side / stride) and puts the odd pixel after; ``same_lower`` before."""
    assume((-(-side // stride) - 1) * stride + kernel >= side)  # else there is nothing to pad
    x, weight = random(1, 1, side, side), torch.ones(1, 1, kernel, kernel)
    base = {"x": x, "weight": weight, "strides": torch.tensor([stride, stride])}
    upper, lower = (run("conv", base | {"pad_type": kind}) for kind in ("same", "same_lower"))
    assert upper.shape == lower.shape == (1, 1, -(-side // stride), -(-side // stride))
    mirrored = run("conv", base | {"x": x.flip(2, 3), "pad_type": "same_lower"}).flip(2, 3)
    close(mirrored, upper, 1e-4)


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2]))
@quick
def test_transposed_convolution(kernel, stride, groups):
    x, weight, bias = random(1, 4, 3, 5), random(4, 6 // groups, kernel, kernel, seed=1), random(6, seed=2)
    operands = {"x": x, "weight": weight, "bias": bias, "strides": torch.tensor([stride] * 2), "groups": groups}
    expected = torch.zeros(1, 6, (3 - 1) * stride + kernel, (5 - 1) * stride + kernel).double()
    for c in range(4):
        made = range(c // (4 // groups) * (6 // groups), (c // (4 // groups) + 1) * (6 // groups))
        for i in range(3):
            for j in range(5):
                spread = x[0, c, i, j].double() * weight[c].double()
                expected[0, made.start : made.stop, i * stride :, j * stride :][:, :kernel, :kernel] += spread
    expected += bias.double()[None, :, None, None]
    close(run("conv_transpose", operands), expected, 1e-4)
    cut = operands | {"pad_type": "custom", "pad": torch.tensor([0, 0, 1, 0])}
    close(run("conv_transpose", cut), expected[..., 1:], 1e-4)
    rows, columns = expected.shape[2:]
    whole = cut | {"output_shape": torch.tensor([1, 6, rows, columns - 1])}
    close(run("conv_transpose", whole), expected[..., 1:], 1e-4)
    with pytest.raises(BundleError, match=f"wants {columns} of {columns - 1} values"):
        run("conv_transpose", whole | {"output_shape": torch.tensor([1, 6, rows, columns])})


@given(sides, sides, st.sampled_from([1, 4, 8]), st.sampled_from(["none", "sum", "choice"]))
@quick
def test_attention(queries, keys, width, kind):
    query, key, value = random(1, 2, queries, width), random(1, 2, keys, width, seed=1), random(1, 2, keys, 3, seed=2)
    scores = query.double() @ key.double().mT / math.sqrt(width)
    operands = {"query": query, "key": key, "value": value}
    if kind == "sum":
        operands["attn_mask"] = random(queries, keys, seed=3)
        scores = scores + operands["attn_mask"].double()
    elif kind == "choice":
        operands["attn_mask"] = random(queries, keys, seed=3) > 0
        operands["attn_mask"][:, 0] = True
        scores = scores.masked_fill(~operands["attn_mask"], -math.inf)
    shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
    close(run("scaled_dot_product_attention", operands), shares @ value.double(), 1e-4)
    close(run("scaled_dot_product_attention", operands, StrictHalf()), shares @ value.double(), 0.02)


# --- sums -------------------------------------------------------------------------------------------------------------


@given(sides, st.integers(2, 9), st.booleans())
@quick
def test_layer_norm(rows, width, affine):
    x, gamma, beta = random(2, rows, width), random(width, seed=1), random(width, seed=2)
    operands = {"x": x, "axes": torch.tensor([-1]), "epsilon": 1e-3}
    if affine:
        operands |= {"gamma": gamma, "beta": beta}
    centred = x.double() - x.double().mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    if affine:
        expected = expected * gamma.double() + beta.double()
    close(run("layer_norm", operands), expected, 1e-4)
    close(run("layer_norm", operands, StrictHalf()), expected, 0.05)


@given(sides, sides, st.sampled_from([-1, 0, 1]))
@quick
def test_softmax(rows, columns, axis):
    x = random(rows, columns, scale=3)
    raised = np.exp(x.double().numpy())
    expected = torch.from_numpy(raised / raised.sum(axis=axis, keepdims=True))
    close(run("softmax", {"x": x, "axis": axis}), expected)
    close(run("softmax", {"x": x, "axis": axis}, StrictHalf()), expected, 0.01)


@given(st.sampled_from([(0,), (-1,), (0, 2), (0, 1, 2)]), st.booleans())
@quick
def test_reductions(axes, keep):
    x = random(3, 4, 5).double()
    operands = {"x": x, "axes": torch.tensor(axes), "keep_dims": keep}
    for kind, reduce in (("sum", np.sum), ("mean", np.mean), ("max", np.max), ("min", np.min)):
        expected = torch.from_numpy(np.asarray(reduce(x.numpy(), axis=axes, keepdims=keep)))
        close(run(f"reduce_{kind}", operands), expected, 1e-12)


# --- layout -----------------------------------------------------------------------------------------------------------


@given(st.permutations(range(4)))
@quick
def test_transpose_and_reshape(perm):
    x = random(2, 3, 4, 5)
    close(run("transpose", {"x": x, "perm": torch.tensor(perm)}), torch.from_numpy(x.numpy().transpose(perm)), 0)
    close(run("reshape", {"x": x, "shape": torch.tensor([0, -1, 5])}), x.reshape(2, 12, 5), 0)


@given(
    st.tuples(*[st.integers(0, 3)] * 2), st.tuples(*[st.integers(4, 6)] * 2), st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.booleans()] * 6),
)  # fmt: skip
@quick
def test_slices(begin, end, stride, masks):
    x = random(6, 6)
    operands = {
        "x": x, "begin": torch.tensor(begin), "end": torch.tensor(end), "stride": torch.tensor(stride),
        "begin_mask": torch.tensor(masks[:2]), "end_mask": torch.tensor(masks[2:4]),
        "squeeze_mask": torch.tensor(masks[4:]),
    }  # fmt: skip
    index = tuple(
        begin[axis]
        if masks[4 + axis]
        else slice(None if masks[axis] else begin[axis], None if masks[2 + axis] else end[axis], stride[axis])
        for axis in range(2)
    )
    close(run("slice_by_index", operands), torch.from_numpy(np.array(x.numpy()[index])), 0)


def test_negative_indices_and_strides():
    x = torch.arange(6.0)
    operands = {"x": x, "begin": torch.tensor([-1]), "end": torch.tensor([-4]), "stride": torch.tensor([-1])}
    assert run("slice_by_index", operands).tolist() == [5, 4, 3]


def test_joining_and_parting():
    x, y = random(2, 3), random(2, 3, seed=1)
    close(run("concat", {"values": (x, y), "axis": -1}), torch.from_numpy(np.concatenate((x, y), axis=-1)), 0)
    close(run("stack", {"values": (x, y), "axis": 1}), torch.from_numpy(np.stack((x, y), axis=1)), 0)
    parts = run("split", {"x": x, "num_splits": 3, "axis": 1})
    assert [part.tolist() for part in parts] == [x[:, i : i + 1].tolist() for i in range(3)]
    parts = run("split", {"x": x, "split_sizes": torch.tensor([1, 2]), "axis": 1})
    assert [part.shape for part in parts] == [(2, 1), (2, 2)]
    close(run("tile", {"x": x, "reps": torch.tensor([2, 1])}), torch.from_numpy(np.tile(x.numpy(), (2, 1))), 0)
    close(run("squeeze", {"x": x[None, :, None], "axes": torch.tensor([0, 2])}), x, 0)
    close(run("expand_dims", {"x": x, "axes": torch.tensor([-1, 0])}), x[None, :, :, None], 0)
    with pytest.raises(BundleError, match="interleaves"):
        run("concat", {"values": (x, y), "axis": 0, "interleave": True})


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad(mode):
    x = random(1, 2, 4, 5)
    numpy_mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[mode]
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 2), (2, 1)), mode=numpy_mode)
    got = run("pad", {"x": x, "pad": torch.tensor([0, 0, 0, 0, 1, 2, 2, 1]), "mode": mode})
    close(got, torch.from_numpy(expected), 0)


@given(st.sampled_from([1, 2, 4]), sides)
@quick
def test_pixel_shuffle(factor, side):
    x = random(1, 3 * factor**2, side, 2)
    expected = x.reshape(1, 3, factor, factor, side, 2).permute(0, 1, 4, 2, 5, 3).reshape(1, 3, factor * side, -1)
    close(run("pixel_shuffle", {"x": x, "upscale_factor": factor}), expected, 0)


# --- resizing ---------------------------------------------------------------------------------------------------------


@given(sides, sides, st.integers(1, 20), st.integers(1, 20))
@quick
def test_bilinear_with_corners_aligned(rows, columns, height, width):
    x = random(1, 2, rows, columns)
    expected = F.interpolate(x.double(), size=(height, width), mode="bilinear", align_corners=True)
    shapes = ((1, 2, height, width),)
    by_factor = {
        "x": x, "scale_factor_height": height / rows, "scale_factor_width": width / columns, "align_corners": True
    }  # fmt: skip
    close(run("upsample_bilinear", by_factor, shapes=shapes), expected)
    to_size = {"x": x, "sampling_mode": "STRICT_ALIGN_CORNERS"}
    close(run("resize_bilinear", to_size, shapes=shapes), expected)


@given(sides, sides, st.integers(1, 20), st.integers(1, 20))
@quick
def test_bilinear_with_pixels_as_areas(rows, columns, height, width):
    x = random(1, 2, rows, columns)
    expected = F.interpolate(x.double(), size=(height, width), mode="bilinear", align_corners=False)
    shapes = ((1, 2, height, width),)
    by_factor = {
        "x": x, "scale_factor_height": height / rows, "scale_factor_width": width / columns, "align_corners": False
    }  # fmt: skip
    close(run("upsample_bilinear", by_factor, shapes=shapes), expected)
    close(run("resize_bilinear", {"x": x, "sampling_mode": "UNALIGN_CORNERS"}, shapes=shapes), expected)


@given(sides, st.integers(1, 4))
@quick
def test_nearest(side, factor):
    x = random(1, 2, side, side)
    expected = F.interpolate(x, scale_factor=factor, mode="nearest")
    operands = {"x": x, "scale_factor_height": float(factor), "scale_factor_width": float(factor)}
    close(run("upsample_nearest_neighbor", operands, shapes=(expected.shape,)), expected, 0)


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


# --- rounding ---------------------------------------------------------------------------------------------------------


def program(kind, operands, dtype, shape, inputs=("x",), modules=None):
    kept = {name: Reference(name) if name in inputs else value for name, value in operands.items()}
    return Program(
        inputs=tuple(ValueType(name, dtype, tuple(operands[name].shape)) for name in inputs),
        outputs=("y",),
        operations=(Operation(kind, kept, (ValueType("y", dtype, shape),)),),
        modules=modules or {},
        metadata={},
        images={},
    )


def test_half_results_are_rounded_and_overflow():
    x = torch.tensor([1.0, 40000.0, 0.1])
    made = program("add", {"x": x, "y": x.half()}, "fp16", (3,))
    got = execute(made, {"x": x})["y"]
    assert got.dtype is torch.float16
    assert got.tolist() == [2.0, math.inf, (2 * x[2].half().float()).half().item()]


def test_sums_are_wide_unless_strict():
    """1 + 4096 x 2^-11: in half every addend vanishes against 1, in FP32 none does."""
    x = torch.full((1, 4097), 2.0**-12)
    x[0, 0] = 1
    made = program("reduce_sum", {"x": x, "axes": torch.tensor([1])}, "fp16", (1,), modules={"y": "part.norm"})
    assert execute(made, {"x": x})["y"].item() == 2.0
    assert execute(made, {"x": x}, strict=["part"])["y"].item() == 1.0
    assert execute(made, {"x": x}, strict=["par"])["y"].item() == 2.0


def test_a_wrong_shape_is_an_error():
    made = program("relu", {"x": torch.ones(3)}, "fp32", (4,))
    with pytest.raises(BundleError, match=r"'y' \(relu\) makes \[3\], the program says \[4\]"):
        execute(made, {"x": torch.ones(3)})


def test_an_unknown_operation_is_an_error_with_its_name():
    with pytest.raises(BundleError, match="'y' is a 'topk'"):
        execute(program("topk", {"x": torch.ones(3)}, "fp32", (3,)), {"x": torch.ones(3)})


def test_constants_that_are_cast():
    made = program("constexpr_cast", {"source_val": torch.tensor([0.1, 70000.0])}, "fp16", (2,), inputs=())
    assert execute(made, {})["y"].tolist() == [torch.tensor(0.1).half().item(), math.inf]


def test_every_operation_is_tested_here():
    text = Path(__file__).read_text()
    assert {kind for kind in KNOWN if f'"{kind}"' not in text and not kind.startswith("reduce_")} == set()


# --- saved packages ---------------------------------------------------------------------------------------------------


class EveryKind(torch.nn.Module):
    """Operations that the converter writes in its own way: sizes, masks, offsets, negative axes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.spread = torch.nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = torch.nn.LayerNorm(4)
        self.linear = torch.nn.Linear(4, 6)

    def forward(self, x):
        coarse = F.gelu(self.conv(x))
        fine = self.spread(coarse)
        odd = F.interpolate(fine, size=(13, 11), mode="bilinear", align_corners=True)
        half = F.interpolate(odd, size=(20, 17), mode="bilinear", align_corners=False)
        tokens = self.norm(half.flatten(2).transpose(1, 2))
        q, k, v = self.linear(tokens).reshape(1, -1, 3, 2).unbind(2)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        gate, value = torch.cat((mixed, tokens[..., 1:3]), dim=-1).chunk(2, dim=-1)
        return F.silu(gate) * value.sigmoid() + tokens[:, :, -2:].mean(dim=1, keepdim=True)


@pytest.mark.parametrize("target", ["macOS13", "macOS14", "macOS15"])
def test_a_saved_package_computes_what_pytorch_does(tmp_path, target):
    ct = import_coremltools()
    network, x = EveryKind().eval(), random(1, 3, 16, 12)
    exported = torch.export.export(network, (x,)).run_decompositions({})
    model = ct.convert(
        exported, inputs=[ct.TensorType(name="x", shape=x.shape)], minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(tmp_path / "it.mlpackage"))
    loaded = load_program(tmp_path / "it.mlpackage")
    with torch.no_grad():
        expected = network(x)
    (got,) = execute(loaded, {"x": x}).values()
    close(got, expected, 2e-5)
