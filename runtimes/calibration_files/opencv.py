"""What OpenCV's calibration samples write: ``camera_matrix`` of one camera, or M1 D1 M2 D2 R T of two.

Distortion is radial-tangential unless ``fisheye_model`` is 1. The files say no unit of length: T has that of the
chessboard's squares, so two cameras need a line ``translation_unit`` more (m, cm or mm).
"""

from cdm_export.runtimes.calibration import (
    Calibration,
    Distortion,
    DistortionModel,
    Intrinsics,
    StereoCalibration,
    pair_of,
)
from cdm_export.runtimes.calibration_files.matrices import (
    camera_matrix,
    matrix,
    matrix3,
    projection,
    rectified,
    size_of,
)
from cdm_export.runtimes.calibration_files.node import Node, SizeMissing
from cdm_export.runtimes.contract import Size

_UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_LEFT = (("M1", "cameraMatrix1", "K1"), ("D1", "distCoeffs1"))
_RIGHT = (("M2", "cameraMatrix2", "K2"), ("D2", "distCoeffs2"))


def fits(tree: Node) -> bool:
    """Whether it holds one camera or two."""
    return any(key in tree for key in (*_LEFT[0], "camera_matrix", "Camera_Matrix"))


def read(tree: Node, size: Size | None, raw: bool) -> Calibration:
    """The calibration. With P1 and P2 of a pair it is that of the rectified images, unless ``raw`` is set."""
    size = _size(tree, size)
    if not any(key in tree for key in _LEFT[0]):
        return _camera(
            tree, size, ("camera_matrix", "Camera_Matrix"), ("distortion_coefficients", "Distortion_Coefficients")
        )
    unit = _unit(tree)
    if ("P1" in tree or "P2" in tree) and not raw:
        return _rectified(tree, size, unit)
    left, right = (_camera(tree, size, *names) for names in (_LEFT, _RIGHT))
    rotation = matrix3(tree["R"], matrix(tree["R"], (3, 3)))
    x, y, z = matrix(tree["T"], (3, 1), (1, 3))
    with tree["T"].named():
        return pair_of(left, right, rotation, (x * unit, y * unit, z * unit))


def _size(tree: Node, given: Size | None) -> Size:
    for width, height in (("image_width", "image_height"), ("image_Width", "image_Height")):
        if width in tree or height in tree:
            return size_of(tree[width], tree[height])
    for name in ("image_size", "imageSize"):
        if name in tree:
            x, y = (Node(str(side), tree.file, tree[name].line, name) for side in tree[name].numbers(2))
            return size_of(x, y)
    if given is None:
        raise SizeMissing(
            f"{tree.file} does not say the size of its images: image_width and image_height are missing",
            "Add both as lines of their own: image_width: 640",
        )
    return given


def _unit(tree: Node) -> float:
    known = "translation_unit: mm (or cm, m)"
    if "translation_unit" not in tree:
        raise (tree.get("T") or tree).error(
            "T has no unit: OpenCV writes it in that of the chessboard's squares", f"Add a line of its own: {known}"
        )
    unit = tree["translation_unit"]
    if unit.text not in _UNITS:
        raise unit.error(f"unknown unit '{unit.text[:20]}'", f"Expected {known}")
    return _UNITS[unit.text]


def _camera(tree: Node, size: Size, keys: tuple[str, ...], coefficients: tuple[str, ...]) -> Intrinsics:
    node, lens = tree.first(*keys), tree.first(*coefficients)
    fx, fy, cx, cy = camera_matrix(node, matrix(node, (3, 3)))
    fisheye = any(name in tree and tree[name].number != 0 for name in ("fisheye_model", "Fisheye_Model"))
    model = DistortionModel.FISHEYE if fisheye else DistortionModel.RADIAL_TANGENTIAL
    values = matrix(lens)
    with lens.named():
        distortion = Distortion(model, values) if fisheye or any(values) else None
    with node.named():
        return Intrinsics(fx, fy, cx, cy, size.width, size.height, distortion)


def _rectified(tree: Node, size: Size, unit: float) -> StereoCalibration:
    left, right = (projection(tree[name], matrix(tree[name], (3, 4))) for name in ("P1", "P2"))
    return rectified(tree["P2"], size, left, right, unit)
