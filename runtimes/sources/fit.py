"""Frames at the camera size of a bundle: checked, or cropped and resized on request."""

from dataclasses import replace
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.calibration import Intrinsics, StereoCalibration
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources.base import FrameSource, SourceFrame

AnyCalibration = TypeVar("AnyCalibration", Intrinsics, StereoCalibration)


class AtCameraSize:
    """A source whose frames all have the size of ``camera``; others are refused, or fitted when ``fit`` is set."""

    def __init__(self, source: FrameSource, camera: Size, fit: bool) -> None:
        self._source, self._camera, self._fit = source, camera, fit
        self.names = source.names
        self.unpaired = source.unpaired
        self.left_out = source.left_out
        self.files = source.files
        self.description = f"{source.description}, {'fitted to' if fit else 'at'} {camera}"

    def __len__(self) -> int:
        return len(self._source)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]`` at camera size. Raises InputError when it has another size and ``fit`` is off."""
        loaded = self._source.load(index)
        if loaded.frame.size == self._camera:
            return loaded
        if not self._fit:
            raise InputError(
                f"{loaded.name}: the frame is {loaded.frame.size}, expected the camera size {self._camera}",
                f"Pass --fit to crop and resize, or export a bundle with --camera {loaded.frame.size}.",
            )
        return fit_frame(loaded, self._camera)


def fit_frame(source_frame: SourceFrame, camera: Size) -> SourceFrame:
    """Center crop to the aspect of ``camera``, then resize to it.

    Color is averaged when shrinking and cubic when growing; depth is nearest, since a mean of two depths is
    a surface that is not there. Both images of a pair are fitted alike, so it stays rectified; its disparity and its
    focal length in pixels change with the width. Calibrations follow the pixels.
    """
    given, raw = source_frame.frame, source_frame.raw_depth
    frame = Frame(
        rgb=_fit_color(given.rgb, camera),
        depth=None if given.depth is None else fit_nearest(given.depth, camera),
        right=None if given.right is None else _fit_color(given.right, camera),
        intrinsics=None if given.intrinsics is None else fit_calibration(given.intrinsics, camera),
        stereo=None if given.stereo is None else fit_calibration(given.stereo, camera),
        captured_at=given.captured_at,
    )
    return replace(source_frame, frame=frame, raw_depth=None if raw is None else fit_nearest(raw, camera))


def fit_calibration(calibration: AnyCalibration, camera: Size) -> AnyCalibration:
    """Of the images that ``fit_frame`` makes of those it belongs to: exactly the same window, and the same scale."""
    rows, columns = crop(calibration.size, camera)
    window = Size(columns.stop - columns.start, rows.stop - rows.start)
    return calibration.cropped(columns.start, rows.start, window).scaled(camera)


def crop(size: Size, camera: Size) -> tuple[slice, slice]:
    """Largest centerd window of ``size`` with the aspect of ``camera``, as (rows, columns)."""
    scale = min(size.width / camera.width, size.height / camera.height)

    def centerd(length: int, wanted: int) -> slice:
        kept = min(length, max(1, round(wanted * scale)))
        start = (length - kept) // 2
        return slice(start, start + kept)

    return centerd(size.height, camera.height), centerd(size.width, camera.width)


def _fit_color(image: NDArray[np.uint8], camera: Size) -> NDArray[np.uint8]:
    cropped = image[crop(Size.of(image), camera)]
    shrinking = cropped.shape[0] > camera.height
    resized = cv2.resize(cropped, camera, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def fit_nearest(image: NDArray[Any], camera: Size) -> NDArray[Any]:
    """``image`` [H, W] of any type, cropped as ``crop`` does and sampled at pixel centers: no value is invented."""
    window = image[crop(Size.of(image), camera)]
    rows = ((np.arange(camera.height) + 0.5) * window.shape[0] / camera.height).astype(np.intp)
    columns = ((np.arange(camera.width) + 0.5) * window.shape[1] / camera.width).astype(np.intp)
    return np.asarray(window[rows[:, None], columns])
