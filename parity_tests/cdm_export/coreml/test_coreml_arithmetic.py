"""Operations of the Core ML interpreter that compute, against PyTorch: a defect in one must not hide one in a package.

PyTorch computes the expected value by another road than the interpreter wherever there is one.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("coremltools")

from cdm_export.coreml.interpreter.arithmetic import StrictHalf
from cdm_export.runtimes.errors import BundleError
from parity_tests.coreml_operation import close, quick, random, run, sides

# --- elementwise ------------------------------------------------------------------------------------------------------

UNARY = {
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "softplus": lambda x: (1 + x.exp()).log(),
    "floor": lambda x: -(-x).ceil(),
    "ceil": lambda x: -(-x).floor(),
    "round": lambda x: x - torch.remainder(x + 0.5, 1) + 0.5,
    "sign": lambda x: x / x.abs(),
    "sin": lambda x: (torch.pi / 2 - x).cos(),
    "cos": lambda x: (torch.pi / 2 - x).sin(),
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
    close(run("log", {"x": x}), x.double().log(), 1e-12)
    close(run("elu", {"x": -x, "alpha": 0.5}), 0.5 * ((-x).exp() - 1), 1e-12)
    image, alpha = random(1, 3, 2, 2).double(), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    expected = torch.where(image > 0, image, image * alpha.reshape(1, 3, 1, 1))
    close(run("prelu", {"x": image, "alpha": alpha}), expected, 1e-12)


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


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.lists(st.integers(0, 1), min_size=4, max_size=4),
)
@quick
def test_largest_of_every_window(kernel, stride, pad):
    """All values are below 0: padding with zeros would show."""
    x = -1 - random(1, 2, 5, 6).abs()
    operands = {
        "x": x, "kernel_sizes": torch.tensor(kernel), "strides": torch.tensor([stride, stride]),
        "pad": torch.tensor(pad), "pad_type": "custom", "ceil_mode": False,
    }  # fmt: skip
    rows = range(-pad[0], 5 + pad[1] - kernel[0] + 1, stride)
    columns = range(-pad[2], 6 + pad[3] - kernel[1] + 1, stride)
    expected = torch.full((1, 2, len(rows), len(columns)), -torch.inf)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            window = x[..., max(top, 0) : top + kernel[0], max(left, 0) : left + kernel[1]]
            expected[..., i, j] = window.amax((2, 3)) if window.numel() else -torch.inf
    assert torch.equal(run("max_pool", operands), expected)
    with pytest.raises(BundleError, match="rounds up: not read"):
        run("max_pool", operands | {"ceil_mode": True})


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


def test_convolutions_of_volumes():
    """Three axes, each with its own padding; back by what every value spreads."""
    x, weight = random(1, 2, 3, 4, 5), random(2, 3, 2, 2, 2, seed=1)
    spread = torch.zeros(1, 3, 6, 8, 10).double()
    for c in range(2):
        for d, i, j in np.ndindex(3, 4, 5):
            block = (0, slice(None), slice(2 * d, 2 * d + 2), slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
            spread[block] += x[0, c, d, i, j].double() * weight[c].double()
    operands = {"x": x, "weight": weight, "strides": torch.tensor([2, 2, 2]), "pad_type": "custom"}
    cut = run("conv_transpose", operands | {"pad": torch.tensor([1, 0, 0, 2, 3, 1])})
    close(cut, spread[:, :, 1:, :6, 3:9], 1e-4)
    padded = torch.zeros(1, 2, 4, 6, 8)
    padded[:, :, 1:, :4, 3:] = x
    seen = run("conv", operands | {"weight": weight.transpose(0, 1), "pad": torch.tensor([1, 0, 0, 2, 3, 0])})
    assert seen.shape == (1, 3, 2, 3, 4)
    for d, i, j in np.ndindex(2, 3, 4):
        window = padded[0, :, 2 * d : 2 * d + 2, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].double()
        close(seen[0, :, d, i, j], torch.einsum("cdij,codij->o", window, weight.double()), 1e-4)


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
    centerd = x.double() - x.double().mean(-1, keepdim=True)
    expected = centerd / (centerd.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    if affine:
        expected = expected * gamma.double() + beta.double()
    close(run("layer_norm", operands), expected, 1e-4)
    close(run("layer_norm", operands, StrictHalf()), expected, 0.05)


@given(sides, st.integers(2, 9), st.booleans())
@quick
def test_instance_norm(rows, width, affine):
    x, gamma, beta = random(2, 3, rows + 1, width), random(3, seed=1), random(3, seed=2)
    operands = {"x": x, "epsilon": 1e-3}
    if affine:
        operands |= {"gamma": gamma, "beta": beta}
    planes = x.double().flatten(2)
    expected = (planes - planes.mean(-1, keepdim=True)) / (planes.var(-1, keepdim=True, correction=0) + 1e-3).sqrt()
    if affine:
        expected = expected * gamma.double()[:, None] + beta.double()[:, None]
    close(run("instance_norm", operands), expected.reshape(x.shape), 1e-4)
    close(run("instance_norm", operands, StrictHalf()), expected.reshape(x.shape), 0.05)


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
    squares = (x**2).sum(dim=axes, keepdim=keep)
    close(run("reduce_sum_square", operands), squares, 1e-12)
    close(run("reduce_l2_norm", operands), squares.sqrt(), 1e-12)
    close(run("reduce_l1_norm", operands), x.abs().sum(dim=axes, keepdim=keep), 1e-12)
