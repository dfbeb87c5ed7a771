"""Compressed weights: what a device makes of them when it loads them."""

from collections.abc import Callable

import torch
from torch import Tensor

from cdm_export.coreml.interpreter.call import Call
from cdm_export.runtimes.errors import BundleError


def affine(call: Call) -> Tensor:
    """scale (q - zero) along one axis (macOS 13)."""
    quantized = call.tensor("quantized_data").float()
    shape = [1] * quantized.ndim
    shape[call.integer("axis")] = -1
    scale, zero = call.tensor("scale").float(), call.tensor("zero_point").float()
    return (quantized - _along(zero, shape)) * _along(scale, shape)


def blockwise(call: Call) -> Tensor:
    """scale (q - offset) by blocks; a block is what one scale covers (macOS 15)."""
    data, scale = call.tensor("data").float(), call.tensor("scale").float()
    offset = call.tensor("offset").float() if call.has("offset") else torch.zeros(())
    if offset.ndim:
        offset = _spread(offset, data)
    return (data - offset) * _spread(scale, data)


def palette(call: Call) -> Tensor:
    """Indices into tables: one for all (macOS 13), or one per group of channels (macOS 15)."""
    if call.has("shape"):
        return _one_palette(call)
    indices, table = call.tensor("indices").long(), call.tensor("lut").float()
    if table.shape[-1] != 1:
        raise BundleError(f"operation '{call.name}' (constexpr_lut_to_dense) has palettes of vectors: not read")
    groups, count = table.shape[:-2], table.shape[-2]
    table = table[..., 0]
    which = torch.zeros(indices.shape, dtype=torch.long)
    for axis, parts in enumerate(groups):  # number of the table that each weight reads
        shape = [1] * indices.ndim
        shape[axis] = -1
        number = torch.arange(indices.shape[axis]) // (indices.shape[axis] // parts)
        which = which * parts + number.reshape(shape)
    return table.reshape(-1)[which * count + indices]


def _one_palette(call: Call) -> Tensor:
    """Indices of 1, 2, 4, 6 or 8 bits, packed, the lowest bits first."""
    table, shape = call.tensor("lut").float(), call.integers("shape")
    bits = (table.numel() - 1).bit_length()
    packed = call.tensor("indices").reshape(-1).long()
    stream = (packed[:, None] >> torch.arange(8)) & 1
    needed = int(torch.tensor(shape).prod()) * bits
    numbers = stream.reshape(-1)[:needed].reshape(-1, bits)
    return table[(numbers << torch.arange(bits)).sum(dim=1)].reshape(shape)


def _along(values: Tensor, shape: list[int]) -> Tensor:
    return values.reshape(shape) if values.ndim else values


def _spread(values: Tensor, data: Tensor) -> Tensor:
    for axis, (side, wanted) in enumerate(zip(values.shape, data.shape, strict=True)):
        values = values.repeat_interleave(wanted // side, dim=axis)
    return values


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {
    "constexpr_affine_dequantize": affine,
    "constexpr_blockwise_shift_scale": blockwise,
    "constexpr_lut_to_dense": palette,
    "constexpr_cast": lambda call: call.tensor("source_val"),
}
