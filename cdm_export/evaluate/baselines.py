"""What needs no network: OpenCV's stereo matcher, and two ways to fill the holes of a depth image."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.evaluate.data.base import Needs
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame

_BLOCK = 5
_DISPARITIES = 192
_FIXED_POINT = 16.0
"""OpenCV's disparities are integers, sixteenths of a pixel."""
_INPAINT_RADIUS = 5.0
_MILLIMETERS = 1000.0

Baseline = Callable[[Frame], NDArray[np.float32]]
"""Frame -> [H, W] disparity in pixels or depth in meters; NaN where it has no answer."""


def sgbm(frame: Frame) -> NDArray[np.float32]:
    """Disparity of the left image by semi-global matching (Hirschmueller, TPAMI 2008), NaN where it finds no match.

    OpenCV's ``StereoSGBM`` with blocks of 5, P1 600, P2 2400, uniqueness 10, speckles of 100 pixels and 2 disparities,
    192 disparities, all eight directions.
    """
    assert frame.right is not None
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=_DISPARITIES,
        blockSize=_BLOCK,
        P1=8 * 3 * _BLOCK**2,
        P2=32 * 3 * _BLOCK**2,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.StereoSGBM_MODE_HH,
    )
    found = matcher.compute(frame.rgb, frame.right).astype(np.float32) / np.float32(_FIXED_POINT)
    return np.where(found > 0, found, np.float32(np.nan))


def sgbm_filled(frame: Frame) -> NDArray[np.float32]:
    """``sgbm`` with each hole filled by the value left of it, at the border by the one right of it."""
    disparity = sgbm(frame)
    if not np.isfinite(disparity).any():
        raise InputError("the stereo matcher finds no match in the whole image")
    filled = _from_the_left(_from_the_left(disparity)[:, ::-1])[:, ::-1]
    # A row without any match takes the nearest row's.
    return _from_the_left(_from_the_left(filled.T)[:, ::-1])[:, ::-1].T


def nearest(frame: Frame) -> NDArray[np.float32]:
    """The depth image, with the nearest reading in every hole."""
    depth, hole = _readings(frame)
    # 1 in holes: the distance is to the nearest 0, whose label is its own.
    _, labels = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(int(labels.max()) + 1, np.float32)
    by_label[labels[~hole]] = depth[~hole]
    return np.asarray(by_label[labels])


def telea(frame: Frame) -> NDArray[np.float32]:
    """The depth image, inpainted by fast marching (Telea, J. Graphics Tools 2004)."""
    depth, hole = _readings(frame)
    # OpenCV adds 0.5 and a gradient of length 1 to every pixel it fills, as if they were gray levels.
    levels = depth * np.float32(_MILLIMETERS)
    filled = cv2.inpaint(levels, hole.astype(np.uint8), _INPAINT_RADIUS, cv2.INPAINT_TELEA)
    return np.asarray(filled, np.float32) / np.float32(_MILLIMETERS)


BASELINES: dict[str, tuple[Needs, dict[str, Baseline]]] = {
    "sgbm": (Needs(right=True), {"sgbm": sgbm, "sgbm, holes filled": sgbm_filled}),
    "nearest": (Needs(depth=True), {"nearest": nearest}),
    "telea": (Needs(depth=True), {"telea": telea}),
}
"""By the name on the command line: what it needs, and what it is judged as."""


def _readings(frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Depth with 0 in the holes, and where those are."""
    assert frame.depth is not None
    hole = ~(np.isfinite(frame.depth) & (frame.depth > 0))
    if hole.all():
        raise InputError("the depth image has no reading")
    return np.where(hole, np.float32(0), frame.depth), hole


def _from_the_left(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every NaN becomes the last number left of it in its row, where there is one."""
    columns = np.where(np.isfinite(values), np.arange(values.shape[1]), 0)
    np.maximum.accumulate(columns, axis=1, out=columns)
    return np.take_along_axis(values, columns, axis=1)
