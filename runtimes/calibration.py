"""What is known of the cameras: focal lengths, distortion, and how the two of a pair stand to each other.

Conventions of OpenCV: camera axes x right, y down, z forward; pixel (0, 0) is the *center* of the upper left pixel;
lengths are meters. Scaling and cropping are exact under that convention and happen only when somebody asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.arguments import is_number
from cdm_export.runtimes.contract import LARGEST_SIDE, MOST_METERS, Size
from cdm_export.runtimes.errors import InputError, did_you_mean

Vector: TypeAlias = tuple[float, float, float]
Matrix: TypeAlias = tuple[Vector, Vector, Vector]

_SAME_FOCAL = 1e-4
"""Relative difference of focal lengths that rounding in a file explains: a tenth of a pixel in 1000."""
_SAME_ROW = 0.1
"""Pixels between the rows of the principal points of a rectified pair that rounding explains."""
_ORTHONORMAL = 1e-3
"""Largest element of R R^T - 1 that rounding in a file explains."""


class DistortionModel(str, Enum):
    """How a lens bends rays; the closed set that is read. No distortion is ``Intrinsics.distortion`` being None."""

    RADIAL_TANGENTIAL = "radial_tangential"
    """Brown-Conrady as OpenCV has it: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tauX tauY]]]]; ROS: plumb_bob and
    rational_polynomial."""
    FISHEYE = "fisheye"
    """Equidistant, k1 k2 k3 k4 on the angle (Kannala and Brandt, 2006; ``cv2.fisheye``)."""


_COUNTS = {DistortionModel.RADIAL_TANGENTIAL: (4, 5, 8, 12, 14), DistortionModel.FISHEYE: (4,)}
"""Numbers of coefficients."""


@dataclass(frozen=True)
class Distortion:
    """Of one lens. Raises InputError for an unknown model, a wrong number of coefficients, or one that is no number."""

    model: DistortionModel
    """How it bends rays."""
    coefficients: tuple[float, ...]
    """In the order that ``DistortionModel`` gives; without a unit."""

    def __post_init__(self) -> None:
        known = [model.value for model in DistortionModel]
        if self.model not in known:
            raise InputError(f"unknown distortion model {self.model!r:.60}. {did_you_mean(str(self.model), known)}")
        object.__setattr__(self, "model", DistortionModel(self.model))
        object.__setattr__(self, "coefficients", _numbers("distortion coefficients", self.coefficients))
        counts = _COUNTS[self.model]
        if len(self.coefficients) not in counts:
            raise InputError(
                f"{self.model.value} distortion has {' or '.join(map(str, counts))} coefficients, "
                f"got {len(self.coefficients)}"
            )

    def flipped(self, axis: int) -> "Distortion":
        """Of the mirror image: ``axis`` 0 is x (left and right change), 1 is y."""
        if self.model is DistortionModel.FISHEYE:
            return self
        # Terms that push along the mirrored axis: p2, s1, s2, tauY along x; p1, s3, s4, tauX along y.
        turned = ((3, 8, 9, 13), (2, 10, 11, 12))[axis]
        return replace(self, coefficients=tuple(-c if i in turned else c for i, c in enumerate(self.coefficients)))


@dataclass(frozen=True)
class Intrinsics:
    """One camera. Raises InputError for what is no number, focal lengths not above 0, and sizes out of bounds.

    A principal point outside the image is allowed: crops have one.
    """

    fx: float
    """Focal length along x, pixels."""
    fy: float
    """Focal length along y, pixels."""
    cx: float
    """Column of the principal point, pixels; 0 is the center of the first column."""
    cy: float
    """Row of the principal point, pixels; 0 is the center of the first row."""
    width: int
    """Of the images it belongs to, pixels."""
    height: int
    """Of the images it belongs to, pixels."""
    distortion: Distortion | None = None
    """Of the lens; None for images of a pinhole camera, rectified ones among them."""

    def __post_init__(self) -> None:
        for name in ("fx", "fy", "cx", "cy"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name in ("fx", "fy"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be a focal length above 0 pixels, got {getattr(self, name):g}")
        for name in ("width", "height"):
            side = _number(name, getattr(self, name))
            if side != int(side) or not 1 <= side <= LARGEST_SIDE:
                raise InputError(f"{name} must be a whole number of pixels from 1 to {LARGEST_SIDE}, got {side:g}")
            object.__setattr__(self, name, int(side))
        if self.distortion is not None and not isinstance(self.distortion, Distortion):
            raise InputError(f"distortion must be a Distortion or None, got {type(self.distortion).__name__}")

    @property
    def size(self) -> Size:
        """Of the images it belongs to."""
        return Size(self.width, self.height)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """[3, 3] camera matrix, pixels."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]])

    def scaled(self, to: Size) -> "Intrinsics":
        """Of the same images resized to ``to``, pixel edges on pixel edges as ``cv2.resize`` does."""
        x, y = to.width / self.width, to.height / self.height
        return replace(
            self, fx=self.fx * x, fy=self.fy * y, cx=(self.cx + 0.5) * x - 0.5, cy=(self.cy + 0.5) * y - 0.5,
            width=to.width, height=to.height,
        )  # fmt: skip

    def cropped(self, left: int, top: int, size: Size) -> "Intrinsics":
        """Of the window of ``size`` whose first pixel is in column ``left`` and row ``top``. Raises InputError for a
        window that is not inside the image."""
        if left < 0 or top < 0 or left + size.width > self.width or top + size.height > self.height:
            raise InputError(f"a window of {size} at column {left}, row {top} is not inside an image of {self.size}")
        return replace(self, cx=self.cx - left, cy=self.cy - top, width=size.width, height=size.height)

    def mirrored(self) -> "Intrinsics":
        """Of the images flipped from left to right."""
        return replace(self, cx=self.width - 1 - self.cx, distortion=self._flipped_lens(0))

    def upside_down(self) -> "Intrinsics":
        """Of the images flipped from top to bottom."""
        return replace(self, cy=self.height - 1 - self.cy, distortion=self._flipped_lens(1))

    def _flipped_lens(self, axis: int) -> Distortion | None:
        return None if self.distortion is None else self.distortion.flipped(axis)


@dataclass(frozen=True)
class StereoCalibration:
    """A pair of cameras: rectified with a ``baseline``, or else with ``rotation`` and ``translation``.

    Raises InputError for neither or both; for images of two sizes; for a baseline or focal lengths that are not
    positive; for a rectified pair with distortion, two focal lengths or two rows of the principal point; for a rotation
    that is none, and a translation of length 0.
    """

    left: Intrinsics
    """Of the left camera, whose image disparity and depth belong to."""
    right: Intrinsics
    """Of the right camera."""
    baseline: float | None = None
    """Meters between the cameras of a rectified pair, above 0; None for one that is not rectified."""
    rotation: Matrix | None = None
    """[3, 3], rows first: x_right = rotation x_left + translation, as ``cv2.stereoCalibrate`` gives it."""
    translation: Vector | None = None
    """Meters, see ``rotation``; about (-baseline, 0, 0)."""

    def __post_init__(self) -> None:
        for name in ("left", "right"):
            if not isinstance(getattr(self, name), Intrinsics):
                raise InputError(f"{name} must be Intrinsics, got {type(getattr(self, name)).__name__}")
        if self.left.size != self.right.size:
            raise InputError(
                f"the images of a pair have one size: left is {self.left.size}, right is {self.right.size}"
            )
        if (self.baseline is None) == (self.translation is None) or (self.rotation is None) != (
            self.translation is None
        ):
            raise InputError(
                "a pair of cameras has a baseline when it is rectified, and else a rotation and a translation",
                "Give baseline in meters, or rotation [3, 3] and translation in meters.",
            )
        if self.baseline is not None:
            self._check_rectified(self.baseline)
        else:
            self._check_pose()

    def _check_rectified(self, baseline: float) -> None:
        object.__setattr__(self, "baseline", _number("baseline", baseline))
        if not 0 < baseline <= MOST_METERS:
            raise InputError(
                f"the baseline must be above 0 meters, got {baseline:g}",
                "A negative one means that left and right are swapped, or the sign of Tx.",
            )
        left, right = self.left, self.right
        if left.distortion or right.distortion:
            raise InputError(
                "images of a rectified pair have no distortion any more",
                "Give rotation and translation instead of a baseline, for images as the cameras took them.",
            )
        focal = max(abs(left.fx / right.fx - 1), abs(left.fy / right.fy - 1))
        if focal > _SAME_FOCAL or abs(left.cy - right.cy) > _SAME_ROW:
            raise InputError(
                "the cameras of a rectified pair share focal lengths and the row of the principal point: left has "
                f"fx {left.fx:g}, fy {left.fy:g}, cy {left.cy:g}, right has fx {right.fx:g}, fy {right.fy:g}, "
                f"cy {right.cy:g}",
                "Give rotation and translation instead of a baseline, for images as the cameras took them.",
            )

    def _check_pose(self) -> None:
        rows = self.rotation
        assert rows is not None and self.translation is not None
        if not isinstance(rows, Sequence | np.ndarray) or len(rows) != 3:
            raise InputError(f"rotation must have 3 rows of 3 numbers, got {rows!r:.80}")
        rotation = tuple(_vector("rotation", row) for row in rows)
        turn = np.clip(np.array(rotation), -10, 10)  # Far from a rotation is as wrong as farther.
        error = float(np.abs(turn @ turn.T - np.eye(3)).max())
        if not error <= _ORTHONORMAL or np.linalg.det(turn) < 0:
            raise InputError(
                f"rotation is none: its rows are not perpendicular of length 1, or mirror (off by {error:.2g}, "
                f"determinant {np.linalg.det(turn):.3g})"
            )
        translation = _vector("translation", self.translation)
        if not 0 < float(np.linalg.norm(translation)) <= MOST_METERS:
            raise InputError(f"the translation between two cameras is above 0 meters long, got {translation}")
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @property
    def rectified(self) -> bool:
        """Whether the images are rectified: rows on rows, without distortion."""
        return self.baseline is not None

    @property
    def size(self) -> Size:
        """Of either image."""
        return self.left.size

    @property
    def doffs(self) -> float:
        """Columns between the principal points, right minus left, pixels: what disparity lacks to be 0 at infinity."""
        return self.right.cx - self.left.cx

    def meters(self, disparity: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Disparity of the left image, [H, W] pixels -> depth, float32 [H, W] meters, and where it is valid, bool.

        depth = fx * baseline / (disparity + doffs). Valid: finite, and finitely far (``disparity + doffs`` above 0);
        elsewhere 0, never NaN. Raises InputError unless rectified, and for another size.
        """
        if self.baseline is None:
            raise InputError(
                "disparity becomes meters between rectified images, this calibration is of images as the cameras took "
                "them",
                "Rectify the pair first, and give the calibration of the rectified images.",
            )
        if disparity.shape != (self.left.height, self.left.width):
            raise InputError(
                f"the disparity has shape {list(disparity.shape)}, the calibration is for {self.size} (width x height)",
                "Give the calibration of images of this size, or scale it: calibration.scaled(Size(...)).",
            )
        with np.errstate(invalid="ignore"):
            length = disparity.astype(np.float64) + self.doffs
            valid = np.isfinite(length) & (length * MOST_METERS >= self.left.fx * self.baseline)
        depth = np.divide(self.left.fx * self.baseline, length, out=np.zeros_like(length), where=valid)
        return depth.astype(np.float32), valid

    def scaled(self, to: Size) -> "StereoCalibration":
        """Of the same images resized to ``to``; disparity changes with the width."""
        return replace(self, left=self.left.scaled(to), right=self.right.scaled(to))

    def cropped(self, left: int, top: int, size: Size) -> "StereoCalibration":
        """Of one window of both images; disparity stays. Raises InputError for a window that is not inside."""
        return replace(self, left=self.left.cropped(left, top, size), right=self.right.cropped(left, top, size))

    def mirrored(self) -> "StereoCalibration":
        """Of the images flipped from left to right: the right camera becomes the left one, disparity stays positive."""
        left, right = self.right.mirrored(), self.left.mirrored()
        if self.rotation is None or self.translation is None:
            return replace(self, left=left, right=right)
        # x_left' = M x_right and x_right' = M x_left, M = diag(-1, 1, 1), in x_right = R x_left + t.
        mirror, turn = np.diag([-1.0, 1, 1]), np.array(self.rotation)
        return replace(
            self,
            left=left,
            right=right,
            rotation=_matrix(mirror @ turn.T @ mirror),
            translation=_row(-mirror @ turn.T @ np.array(self.translation)),
        )

    def upside_down(self) -> "StereoCalibration":
        """Of the images flipped from top to bottom: the sides stay."""
        left, right = self.left.upside_down(), self.right.upside_down()
        if self.rotation is None or self.translation is None:
            return replace(self, left=left, right=right)
        mirror = np.diag([1.0, -1, 1])
        return replace(
            self,
            left=left,
            right=right,
            rotation=_matrix(mirror @ np.array(self.rotation) @ mirror),
            translation=_row(mirror @ np.array(self.translation)),
        )


Calibration: TypeAlias = Intrinsics | StereoCalibration
"""What a calibration file holds."""


def pair_of(left: Intrinsics, right: Intrinsics, rotation: Matrix, translation: Vector) -> StereoCalibration:
    """The pair with that pose, x_right = rotation x_left + translation (meters): rectified where it says just that.

    Raises InputError for a pair that is none.
    """
    posed = StereoCalibration(left, right, rotation=rotation, translation=translation)
    assert posed.rotation is not None and posed.translation is not None
    across, down, ahead = posed.translation
    straight = np.abs(np.array(posed.rotation) - np.eye(3)).max() < 1e-6
    if not straight or left.distortion or right.distortion or across >= 0 or max(abs(down), abs(ahead)) > 1e-6:
        return posed
    try:
        return StereoCalibration(left, right, baseline=-across)
    except InputError:  # two focal lengths, or two rows of the principal point
        return posed


def _number(name: str, value: Any) -> float:
    if not (is_number(value) and isfinite(value)):
        raise InputError(f"{name} must be a finite number, got {value!r:.40}")
    return float(value)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str | bytes):
        raise InputError(f"{name} must be numbers, got {values!r:.40}")
    return tuple(_number(name, value) for value in values)


def _vector(name: str, values: Any) -> Vector:
    numbers = _numbers(name, values)
    if len(numbers) != 3:
        raise InputError(f"{name} must have 3 numbers in a row, got {len(numbers)}")
    return (numbers[0], numbers[1], numbers[2])


def _matrix(values: NDArray[np.float64]) -> Matrix:
    return (_row(values[0]), _row(values[1]), _row(values[2]))


def _row(values: NDArray[np.float64]) -> Vector:
    return (float(values[0]), float(values[1]), float(values[2]))
