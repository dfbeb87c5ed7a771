"""Open3D ``camera_intrinsic.json`` (``PinholeCameraIntrinsic``), also inside ``PinholeCameraParameters``.

The matrix is written column by column.
"""

from cdm_export.runtimes.calibration import Intrinsics
from cdm_export.runtimes.calibration_files.matrices import camera_matrix, size_of
from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.contract import Size


def fits(tree: Node) -> bool:
    """Whether it has an ``intrinsic_matrix``."""
    return "intrinsic_matrix" in tree or ("intrinsic" in tree and "intrinsic_matrix" in tree["intrinsic"])


def read(tree: Node, size: Size | None, raw: bool) -> Intrinsics:
    """The pinhole camera. The size is always in the file."""
    if "intrinsic" in tree:
        tree = tree["intrinsic"]
    node, size = tree["intrinsic_matrix"], size_of(tree["width"], tree["height"])
    a, b, c, d, e, f, g, h, i = node.numbers(9)
    if (g, h) == (0, 0) and (c, f) != (0, 0):
        raise node.error("intrinsic_matrix is written row by row: Open3D writes columns, fx 0 0 0 fy 0 cx cy 1")
    fx, fy, cx, cy = camera_matrix(node, (a, d, g, b, e, h, c, f, i))
    with node.named():
        return Intrinsics(fx, fy, cx, cy, size.width, size.height)
