"""Color and depth images from files: what is accepted, and what is said about the rest.

Files are decoded from memory, since OpenCV cannot open every path that has letters beyond ASCII.
"""

import difflib
import io
import math
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.containers import damage

_DEPTH_FORMATS = "expected a single-channel 16-bit PNG or TIFF, a float32 TIFF in meters, or .npy in meters"
_NOT_A_PICTURE = "Save the sensor's own numbers, before any color map."


def read_color(path: Path, upright: bool = False) -> NDArray[np.uint8]:
    """Color image as uint8 [H, W, 3] in true RGB order.

    Gray becomes three equal channels, alpha is dropped, 16 bits become 8. An EXIF rotation is ignored, because a depth
    image beside it is not rotated, unless ``upright`` is set. Raises InputError for a file that is missing, damaged, or
    no image.
    """
    bgr = _decode(path, cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION))
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_depth(path: Path, depth_scale: float) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Depth image as stored, and as float32 meters; both [H, W].

    Integers are sensor units, ``depth_scale`` of them to the meter; floating point (``.npy``, TIFF) is meters already
    and ``depth_scale`` does not apply. 0, negative, NaN and Inf mean no reading and are kept. Raises InputError
    for a file that is missing or damaged, has several channels, or 8 bits, and for a scale that is not positive.
    """
    require_scale(depth_scale)
    raw = _load_npy(path) if path.suffix.lower() == ".npy" else _decode(path, cv2.IMREAD_UNCHANGED)
    if raw.ndim != 2:
        what = f"{raw.shape[2]} channels" if raw.ndim == 3 else f"shape {list(raw.shape)}"
        raise InputError(f"{path.name} is not a depth image: it has {what}; {_DEPTH_FORMATS}", _NOT_A_PICTURE)
    if raw.dtype.kind not in "iuf":
        raise InputError(f"{path.name} is not a depth image: its elements are {raw.dtype}; {_DEPTH_FORMATS}")
    if raw.dtype.itemsize == 1:
        raise InputError(
            f"{path.name} is 8-bit: that is a visualization, not depth; {_DEPTH_FORMATS}",
            _NOT_A_PICTURE,
        )
    with np.errstate(over="ignore"):  # A float64 beyond float32 becomes Inf, which is no reading.
        meters = raw.astype(np.float32)
    return raw, meters / np.float32(effective_scale(raw, depth_scale))


def require_scale(depth_scale: float) -> None:
    """Raises InputError unless ``depth_scale`` can be sensor units per meter: finite and positive."""
    if not (math.isfinite(depth_scale) and depth_scale > 0):
        raise InputError(
            f"the depth scale must be a positive number of sensor units per meter, got {depth_scale}",
            "1000 for millimeters, 5000 for TUM RGB-D, 10000 for tenths of a millimeter.",
        )


def effective_scale(raw: NDArray[Any], depth_scale: float) -> float:
    """Units of ``raw`` per meter: ``depth_scale`` for integers, 1 for floating point, which is meters."""
    return depth_scale if np.issubdtype(raw.dtype, np.integer) else 1.0


def load_pair(name: str, color: Path, depth: Path | None, depth_scale: float) -> SourceFrame:
    """One frame from its files; ``depth`` may be None: then color is turned upright as its EXIF rotation says.

    Raises InputError naming the frame and what is wrong.
    """
    try:
        if depth is None:
            return SourceFrame(name, Frame(read_color(color, upright=True)))
        rgb = read_color(color)
        raw, meters = read_depth(depth, depth_scale)
        return SourceFrame(name, Frame(rgb, meters), raw, effective_scale(raw, depth_scale))
    except InputError as error:
        raise InputError(f"{name}: {error.message}", error.next_step) from error


def _decode(path: Path, flags: int) -> NDArray[Any]:
    data = _read(path)
    reason = damage(data)
    image: NDArray[Any] | None = None
    if not reason:
        logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5; OpenCV 4 has these two at the top.
        level = logging.getLogLevel()
        logging.setLogLevel(0)  # Silent: the user gets our message, once.
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:  # Empty, or larger than OpenCV agrees to decode.
            reason = " ".join(str(error.err).split())
        finally:
            logging.setLogLevel(level)
    if image is None:
        raise InputError(
            f"{path.name} cannot be read as an image: {reason or 'the format is unknown or the file is damaged'}",
            "Check that the file was copied completely, and opens in an image viewer.",
        )
    return image


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(
            f"{path.name} is a folder: expected an image file", "Give the file, or the folder as --frames."
        )
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no such file: {path}", _near_names(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{str(path)!r} cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def _near_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist."
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return "Did you mean " + " or ".join(f"'{name}'" for name in close) + "?" if close else ""


def _load_npy(path: Path) -> NDArray[Any]:
    data = _read(path)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name} is not a numpy array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path.name} is an archive of arrays: expected one array saved by numpy.save")
    return array
