"""Matrix products, convolutions and attention."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cdm_export.coreml.interpreter.arithmetic import Wide
from cdm_export.coreml.interpreter.call import Call
from cdm_export.coreml.interpreter.normalize import soft_maximum
from cdm_export.runtimes.errors import BundleError


def linear(call: Call) -> Tensor:
    """x W^T + b."""
    product = call.arithmetic.matmul(call.tensor("x"), call.tensor("weight").transpose(-1, -2))
    return product + call.tensor("bias") if call.has("bias") else product


def matmul(call: Call) -> Tensor:
    """Product, either side transposed when asked for."""
    left, right = call.tensor("x"), call.tensor("y")
    if call.flag("transpose_x"):
        left = left.transpose(-1, -2)
    if call.flag("transpose_y"):
        right = right.transpose(-1, -2)
    return call.arithmetic.matmul(left, right)


def convolution(call: Call) -> Tensor:
    """[B, C, ...] with weight [out, in / groups, ...]."""
    image, weight = call.tensor("x"), call.tensor("weight")
    axes = weight.ndim - 2
    stride = call.integers("strides") if call.has("strides") else [1] * axes
    dilation = call.integers("dilations") if call.has("dilations") else [1] * axes
    image = F.pad(image, _torch_padding(_padding(call, image, list(weight.shape[2:]), stride, dilation)))
    out = call.arithmetic.convolution(image, weight, stride, dilation, call.integer("groups", 1))
    return _with_bias(call, out)


def transposed_convolution(call: Call) -> Tensor:
    """[B, C, ...] with weight [in, out / groups, ...]; padding is cut off before, a given shape says how much stays."""
    image, weight = call.tensor("x"), call.tensor("weight")
    axes = weight.ndim - 2
    stride = call.integers("strides") if call.has("strides") else [1] * axes
    dilation = call.integers("dilations") if call.has("dilations") else [1] * axes
    kind = call.text("pad_type", "valid")
    if kind not in ("valid", "custom"):
        raise BundleError(f"operation '{call.name}' (conv_transpose) has the padding '{kind}': not read")
    convolve = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[axes]
    out: Tensor = convolve(
        image, weight, None, tuple(stride), 0, 0, call.integer("groups", 1), tuple(dilation)
    )  # sums of kernel positions that overlap run in FP32 whatever the arithmetic
    cut = call.integers("pad") if kind == "custom" else [0] * (2 * axes)
    for axis in range(axes):
        before, side = cut[2 * axis], out.shape[2 + axis]
        wanted = side - before - cut[2 * axis + 1]
        if call.has("output_shape"):
            wanted = call.integers("output_shape")[axis - axes]
        if before + wanted > side:
            raise BundleError(f"operation '{call.name}' (conv_transpose) wants {wanted} of {side - before} values")
        out = out.narrow(2 + axis, before, wanted)
    return _with_bias(call, out)


def attention(call: Call) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v, one operation: its inside is not rounded."""
    query, key, value = (call.tensor(name) for name in ("query", "key", "value"))
    mask = call.maybe_tensor("attn_mask")
    if isinstance(call.arithmetic, Wide):
        return F.scaled_dot_product_attention(query, key, value, mask)
    scaled = call.arithmetic.round(query * query.shape[-1] ** -0.5)
    scores = call.arithmetic.matmul(scaled, key.transpose(-1, -2))
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else call.arithmetic.round(scores + mask)
        )
    return call.arithmetic.matmul(soft_maximum(scores, -1, call.arithmetic), value)


def _padding(call: Call, image: Tensor, kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Before and after every spatial axis."""
    kind, axes = call.text("pad_type", "valid"), len(kernel)
    if kind == "valid":
        return [0] * (2 * axes)
    if kind == "custom":
        return call.integers("pad")
    if kind not in ("same", "same_lower"):
        raise BundleError(f"operation '{call.name}' ({call.kind}) has the unknown padding '{kind}'")
    pad = []
    for axis in range(axes):
        side = image.shape[2 + axis]
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        lacking = max((-(-side // stride[axis]) - 1) * stride[axis] + reach - side, 0)
        less, more = lacking // 2, lacking - lacking // 2
        pad += [less, more] if kind == "same" else [more, less]
    return pad


def _torch_padding(pad: list[int]) -> list[int]:
    """PyTorch counts axes from the last."""
    return [amount for axis in reversed(range(len(pad) // 2)) for amount in pad[2 * axis : 2 * axis + 2]]


def _with_bias(call: Call, out: Tensor) -> Tensor:
    if not call.has("bias"):
        return out
    return out + call.tensor("bias").reshape(1, -1, *(1 for _ in out.shape[2:]))


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {
    "linear": linear,
    "matmul": matmul,
    "conv": convolution,
    "conv_transpose": transposed_convolution,
    "scaled_dot_product_attention": attention,
}
