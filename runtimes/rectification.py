"""Pairs as the cameras took them -> rectified pairs: rows on rows, without distortion.

Rotations and new camera matrices are OpenCV's (Bouguet's method; ``cv2.stereoRectify``, ``cv2.fisheye.stereoRectify``).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.calibration import DistortionModel, Intrinsics, StereoCalibration
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame

Array: TypeAlias = NDArray[np.float64]


class Rectifier:
    """Rectifies the frames of one calibration. Raises InputError for one that is rectified, whose lenses are of two
    kinds, or whose cameras do not stand side by side with the left one on the left."""

    def __init__(self, stereo: StereoCalibration) -> None:
        if stereo.rotation is None or stereo.translation is None:
            raise InputError("this calibration is of rectified images already", "Leave the images as they are.")
        fisheye = _fisheye(stereo)
        rotation, translation = np.array(stereo.rotation), np.array(stereo.translation)
        if -translation[0] < np.abs(translation[1:]).max():
            raise InputError(
                f"the right camera stands at {stereo.translation} m (translation x, y, z): expected it beside the left "
                "one, x below 0",
                "Check which image is the left one, and in which order the cameras were calibrated.",
            )
        lenses = [_lens(stereo.left, fisheye), _lens(stereo.right, fisheye)]
        turns, projections = _poses(stereo, lenses, rotation, translation, fisheye)
        self.rotation = turns[0]
        """[3, 3] float64: axes of the left camera as it was -> of the rectified one."""
        size = (stereo.left.width, stereo.left.height)
        left, right = (Intrinsics(p[0, 0], p[1, 1], p[0, 2], p[1, 2], *size) for p in projections)
        self.stereo = StereoCalibration(left, right, baseline=-projections[1][0, 3] / projections[1][0, 0])
        """Of the rectified images."""
        make = cv2.fisheye.initUndistortRectifyMap if fisheye else cv2.initUndistortRectifyMap
        self._maps = [
            make(matrix, lens, turn, p[:, :3], stereo.size, cv2.CV_16SC2)
            for (matrix, lens), turn, p in zip(lenses, turns, projections, strict=True)
        ]
        self._given = stereo

    def __call__(self, frame: Frame) -> Frame:
        """The frame rectified, with its calibration; pixels that no camera saw are black.

        Raises InputError for a frame with another calibration, and for one with depth: that belongs to the left image
        as it was.
        """
        if frame.stereo != self._given or frame.right is None:
            raise InputError("the frame is not of the cameras that this rectifies")
        if frame.depth is not None:
            raise InputError(
                "the depth image belongs to the left image as the camera took it, not to the rectified one",
                "Leave the depth image out.",
            )
        left, right = (
            np.asarray(cv2.remap(image, *maps, cv2.INTER_LINEAR), np.uint8)
            for image, maps in zip((frame.rgb, frame.right), self._maps, strict=True)
        )
        return replace(frame, rgb=left, right=right, intrinsics=self.stereo.left, stereo=self.stereo)


@lru_cache(maxsize=4)
def rectifier(stereo: StereoCalibration) -> Rectifier:
    """The rectifier of a calibration, made once. Raises InputError as ``Rectifier`` does."""
    return Rectifier(stereo)


def _fisheye(stereo: StereoCalibration) -> bool:
    kinds = {eye.distortion.model for eye in (stereo.left, stereo.right) if eye.distortion is not None}
    both = stereo.left.distortion is not None and stereo.right.distortion is not None
    if DistortionModel.FISHEYE in kinds and (len(kinds) > 1 or not both):
        raise InputError(
            "one lens of the pair is fisheye and the other is not: such a pair is not rectified here",
            "Rectify the images with the program that calibrated the cameras.",
        )
    return DistortionModel.FISHEYE in kinds


def _lens(eye: Intrinsics, fisheye: bool) -> tuple[Array, Array]:
    values = eye.distortion.coefficients if eye.distortion is not None else (0.0,) * (4 if fisheye else 5)
    return eye.matrix, np.array(values)


def _poses(
    stereo: StereoCalibration,
    lenses: list[tuple[Array, Array]],
    rotation: Array,
    translation: Array,
    fisheye: bool,
) -> tuple[list[Array], list[Array]]:
    """Of left and right: [3, 3] axes as they were -> rectified axes, and [3, 4] projection matrix, meters."""
    (left, left_lens), (right, right_lens) = lenses
    given = (left, left_lens, right, right_lens, stereo.size, rotation, translation.reshape(3, 1))
    made: Sequence[Any]
    try:
        if fisheye:
            made = cv2.fisheye.stereoRectify(*given, cv2.CALIB_ZERO_DISPARITY)
        else:
            made = cv2.stereoRectify(*given, flags=cv2.CALIB_ZERO_DISPARITY, alpha=0)
    except cv2.error as error:
        raise InputError(
            f"OpenCV finds no rectification for this calibration: {' '.join(str(error.err).split())}",
            "Check its distortion coefficients and its rotation.",
        ) from error
    arrays = [np.asarray(array, np.float64) for array in made[:4]]
    return arrays[:2], arrays[2:]
