"""Operations that move values and change none of them: they run in the type the program has."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cdm_export.coreml.interpreter.call import Call
from cdm_export.runtimes.errors import BundleError

Outputs = Tensor | tuple[Tensor, ...]


def reshape(call: Call) -> Tensor:
    """0 keeps a side, -1 is what remains."""
    x = call.tensor("x")
    shape = [x.shape[axis] if side == 0 else side for axis, side in enumerate(call.integers("shape"))]
    return x.reshape(shape)


def transpose(call: Call) -> Tensor:
    """Axes in the order of ``perm``."""
    return call.tensor("x").permute(call.integers("perm"))


def squeeze(call: Call) -> Tensor:
    """Without sides of one."""
    x = call.tensor("x")
    gone = {axis % x.ndim for axis in call.integers("axes")} if call.has("axes") else set(range(x.ndim))
    return x.reshape([side for axis, side in enumerate(x.shape) if axis not in gone or side != 1])


def expand_dims(call: Call) -> Tensor:
    """Sides of one where ``axes`` says, counted in the result."""
    x, axes = call.tensor("x"), call.integers("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def concat(call: Call) -> Tensor:
    """One after another."""
    if call.flag("interleave"):
        raise BundleError(f"operation '{call.name}' (concat) interleaves: not read")
    return torch.cat(call.tensors("values"), dim=call.integer("axis"))


def stack(call: Call) -> Tensor:
    """Along a new axis."""
    return torch.stack(call.tensors("values"), dim=call.integer("axis"))


def split(call: Call) -> tuple[Tensor, ...]:
    """In equal parts, or parts of given sizes."""
    x, axis = call.tensor("x"), call.integer("axis")
    if call.has("split_sizes"):
        return torch.split(x, call.integers("split_sizes"), dim=axis)
    return torch.split(x, x.shape[axis] // call.integer("num_splits"), dim=axis)


def slice_by_index(call: Call) -> Tensor:
    """begin:end:stride on every axis; masks leave an end open or drop the axis."""
    x = call.tensor("x")
    rank = x.ndim
    begin, end = call.integers("begin"), call.integers("end")
    stride = call.integers("stride") if call.has("stride") else [1] * rank
    open_begin, open_end, dropped = (call.flags(name, rank) for name in ("begin_mask", "end_mask", "squeeze_mask"))
    for axis in range(rank):
        side = x.shape[axis]
        if dropped[axis]:
            wanted = [begin[axis] % side]
        else:
            first = None if open_begin[axis] else begin[axis]
            last = None if open_end[axis] else end[axis]
            wanted = list(range(side))[slice(first, last, stride[axis])]
        x = x.index_select(axis, torch.tensor(wanted, dtype=torch.long))
    return x.reshape([side for axis, side in enumerate(x.shape) if not dropped[axis]])


def gather(call: Call) -> Tensor:
    """Slices along ``axis``, in the places of the indices."""
    x, indices = call.tensor("x"), call.tensor("indices").long()
    if call.has("batch_dims") and call.integer("batch_dims"):
        raise BundleError(f"operation '{call.name}' (gather) has batch_dims: not read")
    axis = (call.integer("axis") if call.has("axis") else 0) % x.ndim
    _check_indices(call, indices, x.shape[axis])
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, indices.flatten()).reshape(shape)


def gather_along_axis(call: Call) -> Tensor:
    """The element that an index of the same place names along ``axis``."""
    x, indices = call.tensor("x"), call.tensor("indices").long()
    axis = (call.integer("axis") if call.has("axis") else 0) % x.ndim
    _check_indices(call, indices, x.shape[axis])
    return torch.gather(x, axis, indices)


def _check_indices(call: Call, indices: Tensor, length: int) -> None:
    """Elsewhere the device may read anything."""
    low, high = (int(indices.min()), int(indices.max())) if indices.numel() else (0, 0)
    if low < 0 or high >= max(length, 1):
        raise BundleError(f"operation '{call.name}' ({call.kind}) reads places {low} to {high} of {length}")


def tile(call: Call) -> Tensor:
    """Repeated along every axis."""
    return call.tensor("x").repeat(call.integers("reps"))


def pad(call: Call) -> Tensor:
    """Constant, reflected or replicated, on the last axes."""
    x, amounts, mode = call.tensor("x"), call.integers("pad"), call.text("mode", "constant")
    backwards = [amount for axis in reversed(range(len(amounts) // 2)) for amount in amounts[2 * axis : 2 * axis + 2]]
    if mode == "constant":
        return F.pad(x, backwards, value=call.number("constant_val", 0.0))
    if mode not in ("reflect", "replicate"):
        raise BundleError(f"operation '{call.name}' (pad) has the unknown mode '{mode}'")
    while len(backwards) > max(2, 2 * (x.ndim - 2)) and backwards[-2:] == [0, 0]:  # PyTorch pads the last axes, all
        backwards = backwards[:-2]
    return F.pad(x, backwards, mode=mode)


def pixel_shuffle(call: Call) -> Tensor:
    """Pixels from channels."""
    return F.pixel_shuffle(call.tensor("x"), call.integer("upscale_factor"))


OPERATIONS: dict[str, Callable[[Call], Outputs]] = {
    "reshape": reshape,
    "transpose": transpose,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "concat": concat,
    "stack": stack,
    "split": split,
    "slice_by_index": slice_by_index,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "tile": tile,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
}
