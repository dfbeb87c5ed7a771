"""Raw network output -> values at camera size, and which of them are valid."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ModelContract, Semantics, Size
from cdm_export.runtimes.processing.mask import masked


@lru_cache(maxsize=32)
def _source_indices(source: int, target: int) -> NDArray[np.intp]:
    """PyTorch's nearest rule in float32: ``min(floor(dst * (source / target)), source - 1)``."""
    scale = np.float32(source) / np.float32(target)
    indices: NDArray[np.intp] = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.intp)
    return indices.clip(max=source - 1)


@lru_cache(maxsize=8)
def _places(height: int, width: int, size: Size) -> NDArray[np.intp]:
    """Of every pixel of the result, row by row, its source's place in the flat [height, width] image."""
    rows, columns = _source_indices(height, size.height), _source_indices(width, size.width)
    return (rows[:, None] * width + columns).ravel()


def nearest(output: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """[h, w] -> [H, W], as ``torch.nn.functional.interpolate(mode="nearest")`` picks pixels."""
    picked = output.ravel().take(_places(*output.shape, size), mode="clip")  # no place is outside; clip is faster
    return picked.reshape(size.height, size.width)


@lru_cache(maxsize=32)
def _neighbors(
    source: int, target: int, corners: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """PyTorch's linear rule in float32: index before, index after, weight of the one after."""
    places = np.arange(target, dtype=np.float32)
    if corners:
        places *= np.float32(source - 1) / np.float32(max(target - 1, 1))
    else:
        scale = np.float32(source) / np.float32(target)
        places = np.maximum(scale * (places + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    before = places.astype(np.intp).clip(max=source - 1)
    after = (before + 1).clip(max=source - 1)
    return before, after, places - before.astype(np.float32)


def _linear(output: NDArray[np.float32], size: Size, corners: bool) -> NDArray[np.float32]:
    if Size.of(output) == size:
        return output
    above, below, down = _neighbors(output.shape[0], size.height, corners)
    left, right, across = _neighbors(output.shape[1], size.width, corners)
    with np.errstate(invalid="ignore"):  # NaN and Inf spread to their neighbors
        columns = output[:, left] * (1 - across) + output[:, right] * across
        resized = columns[above] * (1 - down)[:, None] + columns[below] * down[:, None]
    return np.asarray(resized, np.float32)


def bilinear(output: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """[h, w] -> [H, W], as PyTorch's ``interpolate(mode="bilinear", align_corners=False)``."""
    return _linear(output, size, corners=False)


def bilinear_corners(output: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """[h, w] -> [H, W], as PyTorch's ``interpolate(mode="bilinear", align_corners=True)``."""
    return _linear(output, size, corners=True)


@lru_cache(maxsize=32)
def _cubic_taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """PyTorch's cubic rule (Keys' kernel with a = -0.75): indices and weights, both [4, target]."""
    places = (np.arange(target, dtype=np.float64) + 0.5) * (source / target) - 0.5
    before = np.floor(places)
    share = places - before
    near, far = np.stack((share, 1 - share)), np.stack((share + 1, 2 - share))
    inner = (1.25 * near - 2.25) * near * near + 1
    outer = ((-0.75 * far + 3.75) * far - 6) * far + 3
    indices = (before.astype(np.intp) + np.arange(-1, 3)[:, None]).clip(0, source - 1)
    return indices, np.stack((outer[0], inner[0], inner[1], outer[1])).astype(np.float32)


def bicubic(output: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """[h, w] -> [H, W], as PyTorch's ``interpolate(mode="bicubic", align_corners=False)``; it overshoots at edges."""
    if Size.of(output) == size:
        return output
    rows, down = _cubic_taps(output.shape[0], size.height)
    columns, across = _cubic_taps(output.shape[1], size.width)
    with np.errstate(invalid="ignore"):  # NaN and Inf spread to their neighbors
        wide = sum(output[:, index] * weight for index, weight in zip(columns, across, strict=True))
        resized = sum(wide[index] * weight[:, None] for index, weight in zip(rows, down, strict=True))
    return np.asarray(resized, np.float32)


RESIZES = {"nearest": nearest, "bilinear": bilinear, "bilinear_corners": bilinear_corners, "bicubic": bicubic}
"""By the name a contract gives (``ModelContract.output_resize``)."""


def interpret(raw: NDArray[np.float32], contract: ModelContract) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Raw output at camera size [H, W] -> (values [H, W], valid [H, W]).

    Metric models give meters, and valid = finite and nearer than ``contract.far``. Other values stay as they are.
    Relative ones are valid where finite. Disparity is that of the left image, column there minus column in the right
    one: valid where finite and above 0, since a point at infinity has 0 and none in front of the cameras has less.
    Where not valid the value is 0, never NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if contract.semantics is Semantics.INVERSE_DEPTH:
            valid = np.isfinite(raw) & (raw > np.float32(1.0 / contract.far))
            values = np.float32(1) / raw
        elif contract.semantics is Semantics.METRIC_DEPTH:
            valid = np.isfinite(raw) & (raw > 0) & (raw < np.float32(contract.far))
            values = raw
        elif contract.semantics is Semantics.DISPARITY:
            valid = np.isfinite(raw) & (raw > 0)
            values = raw
        else:
            valid = np.isfinite(raw)
            values = raw
    return masked(values, valid), valid


def threshold(contract: ModelContract) -> float | None:
    """Raw value at which depth is ``contract.far``; None where nothing is too far.

    None for disparity too, although it is valid above 0: a share of 0 is nothing.
    """
    return {Semantics.INVERSE_DEPTH: 1.0 / contract.far, Semantics.METRIC_DEPTH: contract.far}.get(contract.semantics)
