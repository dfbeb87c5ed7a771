"""Colour image -> network input ``image``."""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtimes.contract import Size

BOUND = 5e-7
"""Largest difference of ``cubic`` from the reference's float64, of 0..1: four steps of float32 at 1."""


def cubic(rgb: NDArray[np.uint8], size: Size, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """[H, W, 3] uint8 RGB -> [1, 3, h, w] float32, nominally 0..1 (cubic overshoot is kept, as the reference does).

    The reference resizes in float64; float32 is within ``BOUND`` of it in half the time, where resizing the uint8 image
    would cost 7e-4 of depth. ``out``: written and returned instead of a new array.
    """
    image = np.multiply(rgb, np.float32(1 / 255), dtype=np.float32)
    if Size.of(image) != size:
        image = _resize(image, size)
    planes = np.empty((1, 3, size.height, size.width), np.float32) if out is None else out
    cv2.split(image, [planes[0, 0], planes[0, 1], planes[0, 2]])
    return planes


def _resize(image: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Without Intel's IPP, whose cubic places samples differently for float32: up to 5e-5 away (OpenCV 5.0).

    The switch is the calling thread's own. Delete it when float32 with IPP is within ``BOUND``.
    """
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.float32)
    finally:
        cv2.ipp.setUseIPP(before)


def cubic_8bit(rgb: NDArray[np.uint8], size: Size, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB -> [1, 3, h, w] uint8: ``cubic`` in whole levels, overshoot cut off.

    ``out``: written and returned instead of a new array.
    """
    levels = cubic(rgb, size)
    levels *= 255
    np.rint(levels, out=levels)
    planes = np.empty(levels.shape, np.uint8) if out is None else out
    np.copyto(planes, levels.clip(0, 255, out=levels), casting="unsafe")
    return planes


RESIZES: Mapping[str, Callable[..., NDArray[Any]]] = {"cubic": cubic, "cubic_8bit": cubic_8bit}
"""By the name a contract gives (``ModelContract.image_resize``)."""
