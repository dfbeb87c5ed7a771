"""Damage that leaves header, names and sizes of a checkpoint right: what was never written, or written twice over.

A bundle compares a network with itself, so weights that are not the ones published pass every later check. Zip records
carry a CRC-32 (``unpickle.py``); safetensors and older PyTorch files carry nothing. What shows there:

* a product's weights that are zero or constant throughout: no training ends like that;
* a stretch of one value that begins or ends in the middle of a row. A unit that training killed is a whole row, a
  channel that it killed is the same column in every row; only a hole in the file stops where it likes;
* a zero tail of the file, as a preallocated download leaves it;
* numbers beyond 1e9, which text and flipped exponent bits are.

Biases, LayerScale, tokens and position embeddings may be zero, and are in networks that were never trained.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

LARGEST = 1e9
"""Magnitude that no weight has. DINOv2's largest is below 100; a flipped exponent bit makes 1e36."""
_WINDOW = 64
"""Numbers looked at together. A stretch of ``_RUN`` holds a whole window, wherever it begins."""
_RUN = 2 * _WINDOW
"""Shortest stretch that counts: a disk sector of float32."""
_CUT = 32
"""Numbers of a row that must lie in the stretch for the row to be cut by it."""
_SPARSE = 0.5
"""Share of zeros outside the stretches from which a network was pruned, and zeros say nothing."""
_TAIL = 16
"""Zeros at the end of a tensor that are more than chance."""


@dataclass(frozen=True)
class Damage:
    """One damaged tensor."""

    name: str
    """As the network calls it."""
    what: str
    """What is wrong with it, e.g. ``all zero``."""

    def __str__(self) -> str:
        return f"{self.name} ({self.what})"


def find_damage(tensors: Mapping[str, Tensor]) -> list[Damage]:
    """Tensors that cannot be trained weights, in order. ``tensors``: finite or not, only those the network reads."""
    found = []
    for name, tensor in tensors.items():
        what = _damage(name, tensor)
        if what:
            found.append(Damage(name, what))
    return found


def find_zero_tail(path: Path, tensors: Mapping[str, Tensor], starts: Mapping[str, int]) -> list[Damage]:
    """Tensors in a zero tail of the file. ``starts``: first byte of each tensor in it; files without CRC-32 only.

    A tail counts when it begins inside a tensor, or covers a normalization or several biases beside others that are
    not zero; a single zero bias at the end of a file is none.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        if any(file.read(_TAIL)):
            return []
    whole: list[Damage] = []
    certain = False
    for name in sorted(starts, key=starts.__getitem__, reverse=True):
        if name not in tensors or not tensors[name].numel():
            continue
        flat = tensors[name].reshape(-1)
        nonzero = flat.ne(0)
        if bool(nonzero.any()):
            zeros = int(nonzero.flip(0).to(torch.uint8).argmax())
            if zeros >= _TAIL:
                whole.append(Damage(name, f"zero from number {flat.numel() - zeros:,} of {flat.numel():,}"))
                certain = True
            break
        whole.append(Damage(name, "all zero"))
        certain = certain or (tensors[name].dim() == 1 and name.endswith(("weight", "gamma")))
    biases = [name for name in tensors if tensors[name].dim() == 1 and name.endswith("bias")]
    in_tail = {damage.name for damage in whole}
    several = len(in_tail.intersection(biases)) > 1
    others_set = any(bool(tensors[name].any()) for name in biases if name not in in_tail)
    return whole[::-1] if certain or (several and others_set) else []


def _damage(name: str, tensor: Tensor) -> str:
    if not tensor.is_floating_point() or not tensor.numel():
        return ""
    flat = tensor.contiguous().view(-1)
    lows, highs = _windows(flat)
    low, high = float(lows.min()), float(highs.max())
    if max(abs(low), abs(high)) > LARGEST:  # false for NaN, which has its own message
        return f"up to {max(abs(low), abs(high)):.2g}"
    if tensor.dim() < 2 or not low <= high:
        return ""
    if low == high:
        product = "weight" in name.rpartition(".")[2] and tensor.numel() > 8
        return ("all zero" if low == 0 else f"all {low:.4g}") if product else ""
    rows = flat.view(_rows(tensor), -1)
    runs = list(_runs(flat, lows, (lows == highs).nonzero().view(-1)))
    cut = [(start, stop) for start, stop in runs if _cuts(rows, start, stop)]
    if not cut:
        return ""
    inside = sum(stop - start for start, stop in runs if flat[start] == 0)
    zeros = flat.numel() - int(torch.count_nonzero(flat)) - inside
    others = flat.numel() - sum(stop - start for start, stop in runs)
    if others and zeros / others > _SPARSE:
        return ""
    count = sum(stop - start for start, stop in cut)
    value = float(flat[cut[0][0]])
    return f"{count:,} of {flat.numel():,} numbers in a row are {value:.4g}"


def _windows(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest of every window, the rest as one more. Memory: 1/32 of the tensor's."""
    whole = flat.numel() // _WINDOW * _WINDOW
    windows = flat[:whole].view(-1, _WINDOW)
    rest = flat[whole:]
    if not windows.numel():
        return rest.min().view(1), rest.max().view(1)
    lows, highs = windows.amin(1), windows.amax(1)
    if rest.numel():
        lows, highs = torch.cat((lows, rest.min().view(1))), torch.cat((highs, rest.max().view(1)))
    return lows, highs


def _rows(tensor: Tensor) -> int:
    """Rows of the matrix that a weight is: its first dimension that is not 1."""
    return next((size for size in tensor.shape if size > 1), 1)


def _runs(flat: Tensor, lows: Tensor, constant: Tensor) -> Iterator[tuple[int, int]]:
    """Maximal stretches ``[start, stop)`` of one value, ``_RUN`` numbers or more, around the constant windows.

    ``lows``: smallest of every window; ``constant``: indices of those without another number.
    """
    values = lows[constant]
    broken = (constant[1:] != constant[:-1] + 1) | (values[1:] != values[:-1])
    edges = [0, *(broken.nonzero().view(-1) + 1).tolist(), len(constant)]
    for begin, end in itertools.pairwise(edges):
        if begin == end:
            continue
        value = values[begin]
        start = int(constant[begin]) * _WINDOW
        stop = min((int(constant[end - 1]) + 1) * _WINDOW, flat.numel())
        start -= _leading(flat[max(0, start - _WINDOW) : start].flip(0) == value)
        stop += _leading(flat[stop : stop + _WINDOW] == value)
        if stop - start >= _RUN:
            yield start, stop


def _leading(same: Tensor) -> int:
    """How many are true before the first that is not."""
    return same.numel() if bool(same.all()) else int((~same).to(torch.uint8).argmax())


def _cuts(rows: Tensor, start: int, stop: int) -> bool:
    """Whether the stretch stops in the middle of a row whose other rows do not stop there."""
    width = rows.shape[1]
    top, left = divmod(start, width)
    bottom, right = divmod(stop - 1, width)
    right += 1
    if left == 0 and right == width:
        return False
    value = rows[top, left]
    spans = []
    if left:
        spans.append((left, right if top == bottom else width))
    if right < width and not (left and top == bottom):
        spans.append((0 if top != bottom else left, right))
    neighbors = [row for row in (top - 1, bottom + 1) if 0 <= row < rows.shape[0]]
    return any(
        end - begin >= _CUT and all(bool((rows[row, begin:end] != value).any()) for row in neighbors)
        for begin, end in spans
    )
