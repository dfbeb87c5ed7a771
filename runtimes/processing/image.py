"""Color image -> network input ``image``."""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Size

BOUND = 5e-7
"""Largest difference of ``cubic`` from the reference's float64, of 0..1: four steps of float32 at 1."""


def cubic(rgb: NDArray[np.uint8], size: Size, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """[H, W, 3] uint8 RGB -> [1, 3, h, w] float32, nominally 0..1 (cubic overshoot is kept, as the reference does).

    The reference resizes in float64; float32 is within ``BOUND`` of it in half the time, where resizing the uint8 image
    would cost 7e-4 of depth. ``out``: written and returned instead of a new array.
    """
    planes = np.empty((1, 3, size.height, size.width), np.float32) if out is None else out
    for channel, plane in zip(cv2.split(rgb), planes[0], strict=True):
        _cubic_channel(channel, size, plane)
    return planes


def cubic_8bit(rgb: NDArray[np.uint8], size: Size, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB -> [1, 3, h, w] uint8: ``cubic`` in whole levels, overshoot cut off.

    ``out``: written and returned instead of a new array.
    """
    planes = np.empty((1, 3, size.height, size.width), np.uint8) if out is None else out
    levels = np.empty((size.height, size.width), np.float32)
    for channel, plane in zip(cv2.split(rgb), planes[0], strict=True):
        _cubic_channel(channel, size, levels)
        np.multiply(levels, 255, out=levels)
        np.rint(levels, out=levels)
        np.copyto(plane, levels.clip(0, 255, out=levels), casting="unsafe")
    return planes


def _cubic_channel(channel: NDArray[Any], size: Size, out: NDArray[np.float32]) -> None:
    """[H, W] uint8 -> ``out`` [h, w] in 0..1. A channel at a time: arrays of all three would be new memory pages in
    every frame, which cost as much as the resize.

    Without Intel's IPP, whose cubic places samples differently for float32: up to 5e-5 away (OpenCV 5.0). The switch is
    the calling thread's own. Delete it when float32 with IPP is within ``BOUND``.
    """
    if Size.of(channel) == size:
        np.multiply(channel, np.float32(1 / 255), out=out)
        return
    values = np.multiply(channel, np.float32(1 / 255), dtype=np.float32)
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        cv2.resize(values, size, dst=out, interpolation=cv2.INTER_CUBIC)
    finally:
        cv2.ipp.setUseIPP(before)


RESIZES: Mapping[str, Callable[..., NDArray[Any]]] = {"cubic": cubic, "cubic_8bit": cubic_8bit}
"""By the name a contract gives (``ModelContract.image_resize``)."""
