"""8-bit activations: values rounded to steps, and back."""

from collections.abc import Callable

import torch
from torch import Tensor

from cdm_export.coreml.interpreter.call import Call
from cdm_export.coreml.interpreter.program import DTYPES


def quantize(call: Call) -> Tensor:
    """clip(round(x / scale) + zero), halves to even; one scale, or one per side of an axis."""
    x, kind = call.tensor("input"), DTYPES[call.text("output_dtype")]
    limits = torch.iinfo(kind)
    levels = torch.round(x / _along(call, "scale", x))
    if call.has("zero_point"):
        levels = levels + _along(call, "zero_point", x)
    return levels.clamp(limits.min, limits.max).to(kind)


def dequantize(call: Call) -> Tensor:
    """scale (q - zero)."""
    levels = call.tensor("input").float()
    if call.has("zero_point"):
        levels = levels - _along(call, "zero_point", levels)
    return levels * _along(call, "scale", levels)


def _along(call: Call, name: str, x: Tensor) -> Tensor:
    """A number, or a vector laid along ``axis`` of ``x``."""
    values = call.tensor(name).float()
    if not values.ndim:
        return values
    shape = [1] * x.ndim
    shape[call.integer("axis")] = -1
    return values.reshape(shape)


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {"quantize": quantize, "dequantize": dequantize}
