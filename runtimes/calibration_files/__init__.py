"""Calibration files of other programs, one reader per format; which one it is, the content says and not the name.

No unit is guessed, nothing in a file is executed, and whatever is refused is refused with file and line.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cdm_export.runtimes.arguments import check_path
from cdm_export.runtimes.bounded_json import read_bounded
from cdm_export.runtimes.calibration import Calibration, StereoCalibration
from cdm_export.runtimes.calibration_files import (
    kitti,
    middlebury,
    open3d,
    opencv,
    opencv_xml,
    own,
    realsense,
    ros,
    yaml_subset,
)
from cdm_export.runtimes.calibration_files.node import Node, SizeMissing
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError, from_os_error

__all__ = ["SizeMissing", "calibration_of", "read_calibration", "read_calibration_pair", "write_calibration"]


class _Reader(Protocol):
    """One format."""

    def fits(self, tree: Node, /) -> bool: ...

    def read(self, tree: Node, size: Size | None, raw: bool, /) -> Calibration: ...


_LARGEST = 1 << 18
"""Bytes; calibration files have a few thousand."""
_TREES: tuple[_Reader, ...] = (own, open3d, realsense, ros, opencv)
"""Formats of JSON, YAML and XML; a CameraInfo has the names of OpenCV's too, so it comes before."""
_KNOWN = (
    "Expected a calibration of OpenCV (YAML, XML), ROS CameraInfo (YAML), KITTI (calib_cam_to_cam.txt, calib.txt), "
    "Middlebury (calib.txt), Open3D or RealSense (JSON), or one that cdm-export wrote."
)


def read_calibration(path: str | Path, *, size: Size | None = None, raw: bool = False) -> Calibration:
    """The calibration in a file, of one camera or of a pair; lengths in meters.

    ``size`` is that of the images, for formats that do not say it (OpenCV's of two cameras, KITTI's P0 to P3); where a
    file says it, the file counts. Of a pair that was rectified it is the calibration of the rectified images; with
    ``raw`` that of the images as the cameras took them, where the file has it. A folder is read as ROS's pair of files,
    ``left.yaml`` and ``right.yaml``. Raises SizeMissing where nobody says the size, and InputError for anything else.
    """
    check_path("path", path)
    path = Path(path)
    if path.is_dir():
        return read_calibration_pair(path / "left.yaml", path / "right.yaml", raw=raw)
    text = _text(path)
    if middlebury.fits(text):
        return middlebury.read(text, path.name, size, raw)
    if kitti.fits(text):
        return kitti.read(text, path.name, size, raw)
    tree = _tree(text, path.name)
    for form in _TREES:
        if form.fits(tree):
            return form.read(tree, size, raw)
    raise InputError(f"{path.name} is no calibration file that is read", _KNOWN)


def read_calibration_pair(left: str | Path, right: str | Path, *, raw: bool = False) -> StereoCalibration:
    """The pair in two ROS CameraInfo files, see ``read_calibration``. Raises InputError for anything else."""
    one, other = (_camera_info(name, path) for name, path in (("left", left), ("right", right)))
    return ros.read_pair(one, other, raw)


def _camera_info(name: str, path: str | Path) -> Node:
    check_path(name, path)
    tree = _tree(_text(Path(path)), Path(path).name)
    if not ros.fits(tree):
        raise InputError(f"{Path(path).name} is no ROS CameraInfo: it has no distortion_model", _KNOWN)
    return tree


def calibration_of(data: Mapping[str, Any], name: str) -> Calibration:
    """The calibration in our own JSON, read already; ``name`` is where it stood. Raises InputError."""
    return own.read(_node(data, name, ""))


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """Write our own JSON, which ``read_calibration`` reads. Raises InputError when it cannot be written."""
    check_path("path", path)
    try:
        Path(path).write_text(json.dumps(own.to_data(calibration), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _text(path: Path) -> str:
    try:
        data, _ = read_bounded(path, _LARGEST)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    except ValueError as error:
        raise InputError(f"{path.name} is no calibration file: {error}", _KNOWN) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path.name}, line {line}: it is no text (UTF-8)", _KNOWN) from error
    if "\0" in text:
        raise InputError(
            f"{path.name} is no text: it has a NUL in line {text.count(chr(10), 0, text.index(chr(0))) + 1}"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _tree(text: str, file: str) -> Node:
    return opencv_xml.parse(text, file) if text.lstrip().startswith("<") else yaml_subset.parse(text, file)


def _node(data: Any, file: str, name: str) -> Node:
    if isinstance(data, Mapping):
        return Node({str(key): _node(value, file, str(key)) for key, value in data.items()}, file, 0, name)
    if isinstance(data, list | tuple):
        return Node([_node(value, file, name) for value in data], file, 0, name)
    return Node(data if isinstance(data, str) else json.dumps(data), file, 0, name)
