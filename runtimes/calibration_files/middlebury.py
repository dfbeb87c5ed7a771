"""Middlebury stereo ``calib.txt`` (2014 on): cam0, cam1, doffs in pixels, baseline in millimeters, width, height.

(https://vision.middlebury.edu/stereo/data/scenes2014/)
"""

import re

from cdm_export.runtimes.calibration import Intrinsics, StereoCalibration
from cdm_export.runtimes.calibration_files.lines import parse
from cdm_export.runtimes.calibration_files.matrices import camera_matrix, size_of
from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.contract import Size

_MILLIMETERS = 1000.0
_ROUNDED = 0.01
"""Pixels that doffs may differ from the principal points by: files have three digits."""


def fits(text: str) -> bool:
    """Whether a line begins with ``cam0=``."""
    return re.search(r"(?m)^\s*cam0\s*=", text) is not None


def read(text: str, file: str, size: Size | None, raw: bool) -> StereoCalibration:
    """The rectified pair. The size is always in the file."""
    tree = parse(text, file, "=")
    if raw:
        raise tree.error("it is of rectified images, and says nothing of those that the cameras took")
    size = size_of(tree["width"], tree["height"])
    left, right = (_camera(tree[name], size) for name in ("cam0", "cam1"))
    doffs, baseline = tree["doffs"], tree["baseline"]
    if not abs(right.cx - left.cx - doffs.number) <= _ROUNDED:
        raise doffs.error(
            f"doffs is {doffs.number:g}, but the principal points of cam1 and cam0 are {right.cx - left.cx:g} pixels "
            "apart"
        )
    with baseline.named():
        return StereoCalibration(left, right, baseline=baseline.number / _MILLIMETERS)


def _camera(node: Node, size: Size) -> Intrinsics:
    match = re.fullmatch(r"\[([^\[\];]*);([^\[\];]*);([^\[\];]*)\]", node.text)
    if match is None:
        raise node.error(f"{node.name} must be [fx 0 cx; 0 fy cy; 0 0 1], got '{node.text[:40]}'")
    rows = [Node(row, node.file, node.line, node.name).numbers(3) for row in match.groups()]
    fx, fy, cx, cy = camera_matrix(node, (*rows[0], *rows[1], *rows[2]))
    with node.named():
        return Intrinsics(fx, fy, cx, cy, size.width, size.height)
