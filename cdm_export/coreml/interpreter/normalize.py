"""Sums over axes, and what is built from them: means, layer norm, softmax."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from cdm_export.coreml.interpreter.arithmetic import Arithmetic, Wide
from cdm_export.coreml.interpreter.call import Call


def layer_norm(call: Call) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over ``axes``."""
    x, arithmetic = call.tensor("x"), call.arithmetic
    axes = sorted(axis % x.ndim for axis in call.integers("axes"))
    if isinstance(arithmetic, Wide) and axes == list(range(x.ndim - len(axes), x.ndim)):
        sides = [x.shape[axis] for axis in axes]
        return F.layer_norm(
            x, sides, call.maybe_tensor("gamma"), call.maybe_tensor("beta"), call.number("epsilon", 1e-5)
        )
    return _normalized(call, axes, axes)


def instance_norm(call: Call) -> Tensor:
    """The same over all axes behind the channels, gamma and beta per channel."""
    x = call.tensor("x")
    return _normalized(call, list(range(2, x.ndim)), [1])


def _normalized(call: Call, axes: list[int], affine: list[int]) -> Tensor:
    """``affine``: axes of gamma and beta."""
    x, arithmetic = call.tensor("x"), call.arithmetic
    count = math.prod(x.shape[axis] for axis in axes)
    centerd = arithmetic.round(x - arithmetic.round(arithmetic.total(x, axes) / count))
    variance = arithmetic.round(arithmetic.total(arithmetic.round(centerd.square()), axes) / count)
    out = arithmetic.round(centerd / arithmetic.round((variance + call.number("epsilon", 1e-5)).sqrt()))
    gamma, beta = call.maybe_tensor("gamma"), call.maybe_tensor("beta")
    shape = [x.shape[axis] if axis in affine else 1 for axis in range(x.ndim)]
    if gamma is not None:
        out = arithmetic.round(out * gamma.reshape(shape))
    return out if beta is None else out + beta.reshape(shape)


def soft_maximum(x: Tensor, axis: int, arithmetic: Arithmetic) -> Tensor:
    """exp(x - max) over its sum."""
    if isinstance(arithmetic, Wide):
        return x.softmax(dim=axis)
    raised = arithmetic.round(arithmetic.round(x - x.amax(dim=axis, keepdim=True)).exp())
    return arithmetic.round(raised / arithmetic.total(raised, [axis % x.ndim]))


def softmax(call: Call) -> Tensor:
    """Along one axis."""
    return soft_maximum(call.tensor("x"), call.integer("axis", -1), call.arithmetic)


def _axes(call: Call) -> list[int]:
    rank = call.tensor("x").ndim
    return [axis % rank for axis in call.integers("axes")] if call.has("axes") else list(range(rank))


def _kept(call: Call, out: Tensor) -> Tensor:
    if call.flag("keep_dims"):
        return out
    dropped = set(_axes(call))
    return out.reshape([side for axis, side in enumerate(out.shape) if axis not in dropped])


def reduce_sum(call: Call) -> Tensor:
    """Sum over axes."""
    return _kept(call, call.arithmetic.total(call.tensor("x"), _axes(call)))


def reduce_mean(call: Call) -> Tensor:
    """Mean over axes."""
    x, axes = call.tensor("x"), _axes(call)
    return _kept(call, call.arithmetic.total(x, axes) / math.prod(x.shape[axis] for axis in axes))


def reduce_sum_square(call: Call) -> Tensor:
    """Sum of squares over axes."""
    squares = call.arithmetic.round(call.tensor("x").square())
    return _kept(call, call.arithmetic.total(squares, _axes(call)))


def reduce_l1_norm(call: Call) -> Tensor:
    """Sum of magnitudes over axes."""
    return _kept(call, call.arithmetic.total(call.tensor("x").abs(), _axes(call)))


def reduce_l2_norm(call: Call) -> Tensor:
    """Root of the sum of squares over axes."""
    return reduce_sum_square(call).sqrt()


def reduce_max(call: Call) -> Tensor:
    """Largest over axes."""
    return _kept(call, call.tensor("x").amax(dim=_axes(call), keepdim=True))


def reduce_min(call: Call) -> Tensor:
    """Smallest over axes."""
    return _kept(call, call.tensor("x").amin(dim=_axes(call), keepdim=True))


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {
    "layer_norm": layer_norm,
    "instance_norm": instance_norm,
    "softmax": softmax,
    "reduce_sum": reduce_sum,
    "reduce_mean": reduce_mean,
    "reduce_sum_square": reduce_sum_square,
    "reduce_l1_norm": reduce_l1_norm,
    "reduce_l2_norm": reduce_l2_norm,
    "reduce_max": reduce_max,
    "reduce_min": reduce_min,
}
