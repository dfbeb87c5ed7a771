"""What an error is divided by: the reference's depth where the output is meters, a pixel of the network's image where
it is disparity, else the range of the output.

Scale and shift of relative inverse depth mean nothing, so a share of its value means nothing either; a share of its
range survives both.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ErrorClass, ModelContract

_RANGES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Lower bounds of the range bins in meters; the last reaches to ``far``."""
_EDGE_RATIO = 1.1
"""A pixel is near an edge when its 5x5 neighborhood's largest reference depth exceeds the smallest by this."""
_EDGE_SHARE = 0.1
"""Without meters: when the neighborhood spans more than this share of the range."""

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Normalization:
    """For one reference frame at camera size."""

    name: str
    """What the quotient is called, e.g. ``relative depth error``."""
    unit: NDArray[np.float64] | None
    """[H, W] what an absolute error is divided by; None when there is nothing to divide by."""
    metric: bool
    """Whether absolute errors are meters."""
    bins: Mapping[str, Mask]
    """Pixels by range."""
    edges: Mask
    """Pixels near edges of the reference."""
    spread: float | None = None
    """Range of the reference in the error's own unit; None where the error is a share already."""


def error_normalization(reference: Image, valid: Mask, contract: ModelContract) -> Normalization:
    """For reference values [H, W] after post-processing."""
    if contract.semantics.error_class is ErrorClass.RELATIVE:
        return _of_depth(reference, valid, contract.far)
    by_range = _of_range(reference, valid)
    if contract.semantics.error_class is ErrorClass.RANGE:
        return by_range
    pixel = contract.camera.width / contract.content.width  # of the network's image, in pixels of the camera's
    low, high = spread(reference, valid)
    return replace(by_range, name="disparity error", unit=np.full(reference.shape, pixel), spread=(high - low) / pixel)


def spread(values: NDArray[np.floating], valid: Mask) -> tuple[float, float]:
    """1st and 99th percentile of the valid values: their range without outliers; (0, 0) when there are none."""
    if not valid.any():
        return 0.0, 0.0
    low, high = np.percentile(values[valid].astype(np.float64), (1, 99))
    return float(low), float(high)


def near_edges(depth: Image, valid: Mask) -> Mask:
    """[H, W] bool: valid depth in the 5x5 neighborhood varies by more than a tenth of itself."""
    largest, smallest = _neighborhood(depth, valid)
    return np.asarray(largest / smallest > _EDGE_RATIO) & valid


def _of_depth(reference: Image, valid: Mask, far: float) -> Normalization:
    bounds = itertools.pairwise((*(bound for bound in _RANGES if bound < far), math.inf))
    bins = {
        f"{low:g}-{f'{high:g}' if math.isfinite(high) else f'{far:g}'} m": (reference >= low) & (reference < high)
        for low, high in bounds
    }
    return Normalization("relative depth error", reference.astype(np.float64), True, bins, near_edges(reference, valid))


def _of_range(reference: Image, valid: Mask) -> Normalization:
    name = "error as a share of the output's range"
    low, high = spread(reference, valid)
    if not high > low:
        return Normalization(name, None, False, {}, np.zeros_like(valid))
    share = (reference.astype(np.float64) - low) / (high - low)
    quarters = (-math.inf, 0.25, 0.5, 0.75, math.inf)
    names = ("farthest quarter", "2nd quarter", "3rd quarter", "nearest quarter")
    bins = {
        quarter: (share >= low) & (share < high)
        for quarter, (low, high) in zip(names, itertools.pairwise(quarters), strict=True)
    }
    largest, smallest = _neighborhood(reference, valid)
    edges = (largest - smallest > _EDGE_SHARE * (high - low)) & valid
    return Normalization(name, np.full(reference.shape, high - low), False, bins, edges)


def _neighborhood(values: Image, valid: Mask) -> tuple[Image, Image]:
    """Largest and smallest valid value of every 5x5 neighborhood."""
    kernel = np.ones((5, 5), np.uint8)
    largest = cv2.dilate(np.where(valid, values, np.float32(0)), kernel)
    smallest = cv2.erode(np.where(valid, values, np.float32(np.inf)), kernel)
    return np.asarray(largest), np.asarray(smallest)
