"""Camera, rotation and projection matrices from the numbers of a file, whatever its format."""

from typing import TypeAlias

from cdm_export.runtimes.calibration import Intrinsics, Matrix, StereoCalibration, Vector
from cdm_export.runtimes.calibration_files.node import Node, short
from cdm_export.runtimes.contract import Size

_BESIDE = 0.05
"""Share of the baseline that a camera of a rectified pair may be out of line."""
Projection: TypeAlias = tuple[tuple[float, float, float, float], Vector]
"""fx, fy, cx, cy, and the last column of a 3x4 projection matrix."""


def matrix(node: Node, *shapes: tuple[int, int]) -> tuple[float, ...]:
    """Numbers of ``!!opencv-matrix`` (rows, cols, data), rows first. Raises InputError for another shape than one of
    ``shapes``, where any is given."""
    rows, columns = node["rows"].number, node["cols"].number
    if shapes and (rows, columns) not in shapes:
        wanted = " or ".join(f"{a}x{b}" for a, b in shapes)
        raise node.error(f"{node.name} must be a matrix of {wanted}, got {rows:g}x{columns:g}")
    values = node["data"].numbers()
    if len(values) != rows * columns:
        raise node["data"].error(
            f"{node.name} says {rows:g}x{columns:g} and has {len(values)} numbers",
            "Check that the file was copied completely.",
        )
    return values


def camera_matrix(node: Node, values: tuple[float, ...]) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of a 3x3 camera matrix, rows first. Raises InputError for a skewed one, or none."""
    if len(values) != 9:
        raise node.error(f"{node.name} must be a 3x3 camera matrix, 9 numbers, got {len(values)}")
    fx, skew, cx, below, fy, cy, *last = values
    if below != 0 or last != [0, 0, 1]:
        raise node.error(f"{node.name} is no camera matrix: expected fx 0 cx, 0 fy cy, 0 0 1")
    if skew != 0:
        raise node.error(f"{node.name} has skew {skew:g}, between rows and columns: expected 0")
    return fx, fy, cx, cy


def matrix3(node: Node, values: tuple[float, ...]) -> Matrix:
    """9 numbers, rows first -> 3 rows. Raises InputError for another number of them."""
    if len(values) != 9:
        raise node.error(f"{node.name} must have 9 numbers, got {len(values)}")
    a, b, c, d, e, f, g, h, i = values
    return ((a, b, c), (d, e, f), (g, h, i))


def size_of(width: Node, height: Node) -> Size:
    """Raises InputError unless both are whole numbers; bounds are checked by ``Intrinsics``."""
    sides = []
    for node in (width, height):
        if node.number != int(node.number):
            raise node.error(f"{node.name} must be a whole number of pixels, got '{short(node.text)}'")
        sides.append(int(node.number))
    return Size(*sides)


def projection(node: Node, values: tuple[float, ...]) -> Projection:
    """12 numbers of a 3x4 projection matrix, rows first -> (fx, fy, cx, cy) and its last column."""
    if len(values) != 12:
        raise node.error(f"{node.name} must be a 3x4 projection matrix, 12 numbers, got {len(values)}")
    camera = camera_matrix(node, (*values[0:3], *values[4:7], *values[8:11]))
    return camera, (values[3], values[7], values[11])


def rectified(node: Node, size: Size, left: Projection, right: Projection, unit: float = 1.0) -> StereoCalibration:
    """The pair of two projection matrices. Raises InputError unless its cameras stand side by side.

    ``unit``: meters of one unit of the matrices. A last column (tx, ty, tz) places the camera at
    ((tx - cx tz) / fx, (ty - cy tz) / fy, tz); KITTI's are some millimeters off the line, which is left out.
    """
    with node.named():
        one, other = (Intrinsics(*camera, size.width, size.height) for camera, _ in (left, right))
    places = []
    for (fx, fy, cx, cy), (tx, ty, tz) in (left, right):
        places.append(((tx - cx * tz) / fx, (ty - cy * tz) / fy, tz))
    across, *off = (unit * (a - b) for a, b in zip(*places, strict=True))
    if max(map(abs, off)) > _BESIDE * abs(across):
        raise node.error(
            f"{node.name} places the right camera {across:.4g} m beside the left one, and {off[0]:.4g} m and "
            f"{off[1]:.4g} m out of line: that is no rectified pair with its cameras side by side"
        )
    with node.named():
        return StereoCalibration(one, other, baseline=across)
