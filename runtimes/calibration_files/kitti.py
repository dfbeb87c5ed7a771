"""KITTI: ``calib_cam_to_cam.txt`` of raw data and stereo 2015, and ``calib.txt`` with P0 to P3 of object and odometry.

The pair is that of the color cameras, 2 (left) and 3 (right). Lengths are meters. (Geiger et al., "Vision meets
Robotics", 2013.)
"""

import re

import numpy as np

from cdm_export.runtimes.calibration import (
    Calibration,
    Distortion,
    DistortionModel,
    Intrinsics,
    Matrix,
    StereoCalibration,
    pair_of,
)
from cdm_export.runtimes.calibration_files.lines import parse
from cdm_export.runtimes.calibration_files.matrices import camera_matrix, matrix3, projection, rectified, size_of
from cdm_export.runtimes.calibration_files.node import Node, SizeMissing
from cdm_export.runtimes.contract import Size

_LEFT, _RIGHT = "02", "03"
_BEGINNING = re.compile(r"(?m)^(?:calib_time|P_rect_0\d|S_rect_0\d|[SKD]_0\d|Tr_\w+|R0_rect):|^P\d:\s*[-+.\d]")


def fits(text: str) -> bool:
    """Whether lines have the names of KITTI's."""
    return _BEGINNING.search(text) is not None


def read(text: str, file: str, size: Size | None, raw: bool) -> Calibration:
    """The color pair: of the rectified images, or with ``raw`` of those that the cameras took."""
    tree = parse(text, file, ":")
    if any(f"{kind}_{_LEFT}" in tree or f"{kind}_{_RIGHT}" in tree for kind in ("P_rect", "S_rect", "K")):
        return _as_taken(tree) if raw else _rectified(tree)
    left, right = tree["P2"], tree["P3"]
    if raw:
        raise left.error("P2 and P3 are of rectified images; this file says nothing of others")
    if size is None:
        raise SizeMissing(
            f"{file} does not say the size of its images",
            "Give it with the images it belongs to; KITTI's have several.",
        )
    return rectified(right, size, projection(left, left.numbers(12)), projection(right, right.numbers(12)))


def _rectified(tree: Node) -> StereoCalibration:
    left, right = (tree[f"P_rect_{camera}"] for camera in (_LEFT, _RIGHT))
    size, other = (_size(tree[f"S_rect_{camera}"]) for camera in (_LEFT, _RIGHT))
    if size != other:
        raise tree[f"S_rect_{_RIGHT}"].error(f"the right image is {other}, the left one is {size}")
    return rectified(right, size, projection(left, left.numbers(12)), projection(right, right.numbers(12)))


def _as_taken(tree: Node) -> StereoCalibration:
    turns, moves = [], []
    for camera in (_LEFT, _RIGHT):
        turns.append(np.array(matrix3(tree[f"R_{camera}"], tree[f"R_{camera}"].numbers(9))))
        moves.append(np.array(tree[f"T_{camera}"].numbers(3)))
    with np.errstate(all="ignore"):  # What is no rotation is refused below.
        turn = turns[1] @ turns[0].T  # Both are from camera 0: x_i = R_i x_0 + T_i.
        move = moves[1] - turn @ moves[0]
    rows: Matrix = tuple(tuple(map(float, row)) for row in turn)  # type: ignore[assignment]
    with tree[f"R_{_RIGHT}"].named():
        return pair_of(
            _camera(tree, _LEFT), _camera(tree, _RIGHT), rows, (float(move[0]), float(move[1]), float(move[2]))
        )


def _camera(tree: Node, camera: str) -> Intrinsics:
    node, lens, size = tree[f"K_{camera}"], tree[f"D_{camera}"], _size(tree[f"S_{camera}"])
    fx, fy, cx, cy = camera_matrix(node, node.numbers(9))
    values = lens.numbers(5)
    distortion = Distortion(DistortionModel.RADIAL_TANGENTIAL, values) if any(values) else None
    with node.named():
        return Intrinsics(fx, fy, cx, cy, size.width, size.height, distortion)


def _size(node: Node) -> Size:
    width, height = (Node(f"{side:.15g}", node.file, node.line, node.name) for side in node.numbers(2))
    return size_of(width, height)
