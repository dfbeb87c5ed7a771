"""librealsense's ``rs2_intrinsics`` as JSON: width, height, ppx, ppy, fx, fy, model, coeffs.

A pair is ``left`` and ``right`` with ``extrinsics`` (``left.get_extrinsics_to(right)``: rotation column by column,
translation in meters).
"""

from cdm_export.runtimes.calibration import Calibration, Distortion, DistortionModel, Intrinsics, pair_of
from cdm_export.runtimes.calibration_files.matrices import matrix3, size_of
from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import did_you_mean

_NONE, _BROWN, _KANNALA = "none", "brown_conrady", "kannala_brandt4"
_ONLY_ZERO = ("modified_brown_conrady", "inverse_brown_conrady")
"""Other formulas than OpenCV's; with all coefficients 0, as factories write them, no formula at all."""


def fits(tree: Node) -> bool:
    """Whether it has a principal point as librealsense calls it."""
    return "ppx" in tree or ("left" in tree and "ppx" in tree["left"])


def read(tree: Node, size: Size | None, raw: bool) -> Calibration:
    """One camera or two. The size is always in the file."""
    if "ppx" in tree:
        return _camera(tree)
    pose = tree["extrinsics"]
    columns, (x, y, z) = matrix3(pose["rotation"], pose["rotation"].numbers(9)), pose["translation"].numbers(3)
    (a, b, c), (d, e, f), (g, h, i) = columns
    left, right = _camera(tree["left"]), _camera(tree["right"])
    with pose.named():
        return pair_of(left, right, ((a, d, g), (b, e, h), (c, f, i)), (x, y, z))


def _camera(tree: Node) -> Intrinsics:
    size = size_of(tree["width"], tree["height"])
    fx, fy, cx, cy = (tree[name].number for name in ("fx", "fy", "ppx", "ppy"))
    distortion = _distortion(tree)
    with tree["fx"].named():
        return Intrinsics(fx, fy, cx, cy, size.width, size.height, distortion)


def _distortion(tree: Node) -> Distortion | None:
    model, lens = tree["model"], tree["coeffs"]
    name = model.text.lower().removeprefix("distortion.").removeprefix("rs2_distortion_").replace(" ", "_")
    known = [_NONE, _BROWN, _KANNALA, *_ONLY_ZERO]
    if name not in known:
        raise model.error(f"unknown distortion model '{model.text[:40]}'. {did_you_mean(name, known)}")
    values = lens.numbers(5)
    if name == _KANNALA:
        return Distortion(DistortionModel.FISHEYE, values[:4])
    if name in (_NONE, *_ONLY_ZERO) and any(values):
        raise lens.error(
            f"{name} with coefficients other than 0 is not read",
            "Take a stream without distortion, or undistort the images and write coefficients of 0.",
        )
    return Distortion(DistortionModel.RADIAL_TANGENTIAL, values) if any(values) else None
