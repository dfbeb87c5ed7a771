"""ROS ``CameraInfo``: YAML of ``camera_calibration``, or a message as ``topic echo`` prints it.

K and D belong to the image as the camera took it, P to the rectified one; P[3] of the right camera is -fx * baseline,
meters. (sensor_msgs/CameraInfo.)
"""

from typing import NamedTuple

from cdm_export.runtimes.calibration import (
    Calibration,
    Distortion,
    DistortionModel,
    Intrinsics,
    Matrix,
    StereoCalibration,
    pair_of,
)
from cdm_export.runtimes.calibration_files.matrices import (
    Projection,
    camera_matrix,
    matrix,
    matrix3,
    projection,
    rectified,
    size_of,
)
from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import did_you_mean

_MODELS = {
    "plumb_bob": (DistortionModel.RADIAL_TANGENTIAL, (4, 5)),
    "rational_polynomial": (DistortionModel.RADIAL_TANGENTIAL, (8, 12, 14)),
    "equidistant": (DistortionModel.FISHEYE, (4,)),
    "fisheye": (DistortionModel.FISHEYE, (4,)),
}
_NAMES = {
    "K": ("camera_matrix", "K", "k"),
    "D": ("distortion_coefficients", "D", "d"),
    "R": ("rectification_matrix", "R", "r"),
    "P": ("projection_matrix", "P", "p"),
}


def fits(tree: Node) -> bool:
    """Whether it is a CameraInfo."""
    return "distortion_model" in tree


def read(tree: Node, size: Size | None, raw: bool) -> Calibration:
    """One camera, K and D: that of the image as the camera took it."""
    return _camera(tree)


def read_pair(left: Node, right: Node, raw: bool) -> StereoCalibration:
    """Two cameras: of the rectified images, or with ``raw`` of those that the cameras took."""
    one, other = _Poses.of(left), _Poses.of(right)
    size = _size(left)
    if size != _size(right):
        raise right.error(f"the right image is {_size(right)}, the left one in {left.file} is {size}")
    pair = rectified(_node(right, "P"), size, one.projection, other.projection)
    if not raw:
        return pair
    # X_rectified = R X of either camera, and the rectified ones differ by the baseline alone.
    assert pair.baseline is not None
    back = list(zip(*other.rotation, strict=True))
    turn = [[sum(back[i][k] * one.rotation[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
    x, y, z = (-pair.baseline * row[0] for row in back)
    rotation = tuple((row[0], row[1], row[2]) for row in turn)
    with right.named():
        return pair_of(_camera(left), _camera(right), (rotation[0], rotation[1], rotation[2]), (x, y, z))


class _Poses(NamedTuple):
    rotation: Matrix
    projection: Projection

    @classmethod
    def of(cls, tree: Node) -> "_Poses":
        turn, ahead = _node(tree, "R"), _node(tree, "P")
        return cls(matrix3(turn, _values(turn, (3, 3))), projection(ahead, _values(ahead, (3, 4))))


def _camera(tree: Node) -> Intrinsics:
    _refuse_parts(tree)
    size, node = _size(tree), _node(tree, "K")
    fx, fy, cx, cy = camera_matrix(node, _values(node, (3, 3)))
    with node.named():
        return Intrinsics(fx, fy, cx, cy, size.width, size.height, _distortion(tree))


def _distortion(tree: Node) -> Distortion | None:
    model, node = tree["distortion_model"], _node(tree, "D")
    values = _values(node)
    if model.text in ("", "none") and not any(values):
        return None
    if model.text not in _MODELS:
        raise model.error(f"unknown distortion model '{model.text[:40]}'. {did_you_mean(model.text, list(_MODELS))}")
    kind, counts = _MODELS[model.text]
    if not values and kind is DistortionModel.RADIAL_TANGENTIAL:
        return None
    if len(values) not in counts:
        raise node.error(f"{model.text} has {' or '.join(map(str, counts))} coefficients, got {len(values)}")
    return Distortion(kind, values) if any(values) or kind is DistortionModel.FISHEYE else None


def _size(tree: Node) -> Size:
    return size_of(tree.first("image_width", "width"), tree.first("image_height", "height"))


def _node(tree: Node, kind: str) -> Node:
    return tree.first(*_NAMES[kind])


def _values(node: Node, *shapes: tuple[int, int]) -> tuple[float, ...]:
    """A list, or rows, cols and data."""
    if isinstance(node.value, dict):
        return matrix(node, *shapes)
    return node.numbers(*(rows * columns for rows, columns in shapes))


def _refuse_parts(tree: Node) -> None:
    """Raises InputError where the message is of a part of the sensor, or of fewer pixels than it says."""
    for key in ("binning_x", "binning_y"):
        if key in tree and tree[key].number > 1:
            raise tree[key].error(f"{key} is {tree[key].number:g}: a calibration of binned pixels is not read")
    roi = tree.get("roi")
    if roi is not None and any(
        key in roi and roi[key].number != 0 for key in ("width", "height", "x_offset", "y_offset")
    ):
        raise roi.error("a calibration of a region of interest is not read", "Give that of the whole image.")
