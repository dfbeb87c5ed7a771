"""Color image -> network input, one plane after another."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Processing, Size
from cdm_export.runtimes.processing.padding import pad_around

BOUND = 5e-7
"""Largest difference of ``cubic`` from the reference's float64, of 0..1: four steps of float32 at 1."""


def write_planes(
    rgb: NDArray[np.uint8], processing: Processing, planes: NDArray[Any], inside: tuple[slice, slice]
) -> None:
    """[H, W, 3] uint8 RGB -> ``planes`` [3, h, w], float32 0..1 or uint8 0..255, its window ``inside`` and the padding.

    Overshoot of the cubic kernel is kept in float32, as the reference does, and cut off in uint8. A plane at a time:
    arrays of all three would be new memory pages in every frame, which cost as much as the resize.
    """
    rows, columns = inside
    size = Size(columns.stop - columns.start, rows.stop - rows.start)
    whole = size == Size(planes.shape[2], planes.shape[1])
    levels = planes.dtype == np.uint8
    buffer = None if whole and not levels else np.empty((size.height, size.width), np.float32)
    for channel, plane in zip(cv2.split(rgb), planes, strict=True):
        values = plane if buffer is None else buffer
        _RESIZES[processing.resize, processing.antialias](channel, size, values)
        if levels:
            np.multiply(values, 255, out=values)
            np.rint(values, out=values)
            np.copyto(plane[inside], values.clip(0, 255, out=values), casting="unsafe")
        elif buffer is not None:
            plane[inside] = values
        pad_around(plane, inside, processing.padding)


def as_planes(rgb: NDArray[np.uint8], size: Size, processing: Processing) -> NDArray[Any]:
    """[H, W, 3] uint8 RGB -> [3, h, w] without padding, float32 or, as levels, uint8."""
    planes = np.empty((3, size.height, size.width), np.uint8 if processing.normalization == "levels" else np.float32)
    write_planes(rgb, processing, planes, (slice(0, size.height), slice(0, size.width)))
    return planes


def _cubic(channel: NDArray[Any], size: Size, out: NDArray[np.float32]) -> None:
    """[H, W] uint8 -> ``out`` [h, w] in 0..1. The reference resizes in float64; float32 is within ``BOUND`` of it in
    half the time, where resizing the uint8 image would cost 7e-4 of depth.

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


def _bilinear(channel: NDArray[Any], size: Size, out: NDArray[np.float32]) -> None:
    """As PyTorch's ``interpolate(mode="bilinear", align_corners=False)``."""
    _separable(channel, size, out, antialias=False)


def _bilinear_antialias(channel: NDArray[Any], size: Size, out: NDArray[np.float32]) -> None:
    """As PyTorch's ``interpolate(mode="bilinear", align_corners=False, antialias=True)``."""
    _separable(channel, size, out, antialias=True)


def _separable(channel: NDArray[Any], size: Size, out: NDArray[np.float32], antialias: bool) -> None:
    if Size.of(channel) == size:
        np.multiply(channel, np.float32(1 / 255), out=out)
        return
    values = np.multiply(channel, np.float32(1 / 255), dtype=np.float32)
    across = triangle(channel.shape[1], size.width, antialias)
    down = triangle(channel.shape[0], size.height, antialias)
    np.matmul(down, values @ across.T, out=out)


@lru_cache(maxsize=8)
def triangle(source: int, target: int, antialias: bool) -> NDArray[np.float32]:
    """[target, source] weights of linear interpolation at half-pixel centers; the triangle widens with ``antialias``
    where the image shrinks (Turkowski, "Filters for Common Resampling Tasks", 1990). Rows sum to 1.
    """
    scale = source / target
    support = max(scale, 1.0) if antialias else 1.0
    centers = (np.arange(target) + 0.5) * scale
    if not antialias:  # beyond the outermost centers their values go on
        centers = centers.clip(0.5, source - 0.5)
    distance = np.abs(np.arange(source)[None] + 0.5 - centers[:, None]) / support
    weights = np.maximum(1 - distance, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _lanczos(channel: NDArray[Any], size: Size, out: NDArray[np.float32]) -> None:
    """As Pillow's ``Image.resize(size, LANCZOS)`` of an 8-bit image, with levels after each axis: columns first, which
    is the order of its releases before 13 for every image, and for some since.
    """
    levels = channel
    if channel.shape[1] != size.width:
        levels = _levels(levels @ _lanczos_weights(channel.shape[1], size.width).T)
    if channel.shape[0] != size.height:
        levels = _levels(_lanczos_weights(channel.shape[0], size.height) @ levels)
    np.multiply(levels, np.float32(1 / 255), out=out)


_FIXED_POINT = 1 << 22
"""Pillow's weights of 8-bit images are integers of this unit."""


@lru_cache(maxsize=8)
def _lanczos_weights(source: int, target: int) -> NDArray[np.float64]:
    """[target, source] weights of a sinc in a window three times as wide, which widen where the image shrinks: whole
    numbers, whose products with levels float64 holds exactly.
    """
    scale = source / target
    widening = max(scale, 1.0)
    centers = (np.arange(target) + 0.5) * scale
    first = np.maximum((centers - 3 * widening + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + 3 * widening + 0.5).astype(np.int64), source)
    places = np.arange(source)
    distance = (places[None] - centers[:, None] + 0.5) / widening
    inside = (places >= first[:, None]) & (places < last[:, None]) & (np.abs(distance) < 3)
    weights = np.where(inside, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.trunc(weights * _FIXED_POINT + np.copysign(0.5, weights)), np.float64)


def _levels(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to 0..255."""
    rounded: NDArray[np.float64] = np.floor((sums + _FIXED_POINT // 2) / _FIXED_POINT).clip(0, 255)
    return rounded


_RESIZES = {
    ("cubic", False): _cubic,
    ("bilinear", False): _bilinear,
    ("bilinear", True): _bilinear_antialias,
    ("lanczos", False): _lanczos,
}
"""By kernel and antialias."""
