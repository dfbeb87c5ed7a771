"""Raw network output -> values at camera size, and which of them are valid."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from runtimes.contract import ModelContract, Semantics, Size


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


RESIZES = {"nearest": nearest}
"""By the name a contract gives (``ModelContract.output_resize``)."""


def interpret(raw: NDArray[np.float32], contract: ModelContract) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Raw output at camera size [H, W] -> (values [H, W], valid [H, W]).

    Metric models give metres. valid = finite and nearer than ``contract.far``; elsewhere the value is 0, never NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if contract.semantics is Semantics.INVERSE_DEPTH:
            valid = np.isfinite(raw) & (raw > np.float32(1.0 / contract.far))
            values = np.float32(1) / raw
        elif contract.semantics is Semantics.METRIC_DEPTH:
            valid = np.isfinite(raw) & (raw > 0) & (raw < np.float32(contract.far))
            values = raw
        else:
            valid = np.isfinite(raw)
            values = raw
    return np.where(valid, values, np.float32(0)).astype(np.float32, copy=False), valid
