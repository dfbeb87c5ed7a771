"""Sensor depth -> network input."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.processing.mask import masked

NEAREST = 0.07
"""Meters. No depth camera measures closer (Intel's D405 begins here): nearer readings are of another unit."""


def usable(depth: NDArray[np.float32], max_depth: float) -> NDArray[np.bool_]:
    """[H, W] bool: a reading that is finite, positive and not beyond ``max_depth`` meters."""
    with np.errstate(invalid="ignore"):
        mask: NDArray[np.bool_] = (depth > 0) & (depth <= max_depth)
    return mask


def outside_share(depth: NDArray[np.float32], max_depth: float) -> float | None:
    """Share, 0..1, of the readings in [H, W] meters (finite, above 0) that are nearer than ``NEAREST`` or beyond
    ``max_depth`` meters; None without any reading.
    """
    with np.errstate(invalid="ignore"):
        readings = np.count_nonzero((depth > 0) & (depth < np.inf))
        inside = np.count_nonzero((depth >= np.float32(NEAREST)) & (depth <= max_depth))
    return 1 - inside / readings if readings else None


def inverse_nearest(depth: NDArray[np.float32], size: Size, max_depth: float) -> NDArray[np.float32]:
    """[H, W] meters -> [h, w] float32 inverse depth in 1/m, 0 where there is no usable reading.

    Nearest commutes with the pointwise inversion, so the small image is inverted. OpenCV's index rule
    (``floor(dst * (1 / (n_dst / n_src)))`` in float64) is the reference's; PyTorch's differs on some sizes.
    """
    depth = _nearest(depth, size)
    # A subnormal reading inverts to Inf; nothing on earth measures 1e-38 m, so it is no reading.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        valid = (depth >= np.finfo(np.float32).tiny) & (depth <= max_depth)
        inverse = np.float32(1) / depth
    return masked(inverse, valid)


def meters_nearest(depth: NDArray[np.float32], size: Size, max_depth: float) -> NDArray[np.float32]:
    """[H, W] meters -> [h, w] float32 meters, 0 where there is no usable reading; the same pixels are picked."""
    depth = _nearest(depth, size)
    return masked(depth, usable(depth, max_depth))


def _nearest(depth: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    if Size.of(depth) == size:
        return depth
    return np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST), np.float32)


NORMALIZATIONS = {"inverse_depth": inverse_nearest, "meters": meters_nearest}
"""By the name a contract gives (``Processing.normalization``)."""
