"""Color and depth images from files: what is accepted, and what is said about the rest.

Files are decoded from memory, since OpenCV cannot open every path that has letters beyond ASCII.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.decode import decode
from cdm_export.runtimes.sources.files import read_bytes
from cdm_export.runtimes.sources.npy import load_npy

_DEPTH_FORMATS = "expected a single-channel 16-bit PNG or TIFF, a float32 TIFF in meters, or .npy in meters"
_NOT_A_PICTURE = "Save the sensor's own numbers, before any color map."
_FEWEST_BITS = 15
"""Of 16 that the largest value of a color image needs: a camera of 10, 12 or 14 bits leaves the upper ones empty."""


def read_color(path: Path, upright: bool = False) -> NDArray[np.uint8]:
    """Color image as uint8 [H, W, 3] in true RGB order.

    Gray becomes three equal channels, alpha is dropped, 16 bits become 8. A rotation noted in the file (EXIF, TIFF) is
    ignored, because a depth image beside it is not rotated, unless ``upright`` is set. Raises InputError for a file
    that is missing, damaged, or no image; for floating point; for 16 bits of which the upper ones are empty, which
    would arrive nearly black; and for a single channel of 16 bits, which is a depth image.
    """
    turning = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    bgr = decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | turning)
    if bgr.dtype != np.uint8:
        _refuse_unless_16_bits(path, bgr)
        bgr = decode(path, cv2.IMREAD_COLOR | turning)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _refuse_unless_16_bits(path: Path, bgr: NDArray[Any]) -> None:
    if bgr.dtype != np.uint16:
        raise InputError(
            f"{path.name} is not a color image of 8 or 16 bits: its elements are {bgr.dtype}",
            "Save it with 8 bits per channel. If it is a depth image, give it with --depth.",
        )
    if decode(path, cv2.IMREAD_UNCHANGED).ndim == 2:
        raise InputError(
            f"{path.name} has a single channel of 16 bits: that is a depth image, expected a color image",
            "Give the color image with --input, and this one with --depth. "
            f"If it is a gray picture, save it with 8 bits: {_to_8_bits(path, int(bgr.max()))}",
        )
    largest = int(bgr.max())
    if 0 < largest < 1 << (_FEWEST_BITS - 1):
        raise InputError(
            f"{path.name} holds 16 bits per channel, but its largest value is {largest} of 65535: that is how "
            f"{likely_bits(largest)}-bit images are stored, and it would arrive nearly black",
            f"Save it with 8 bits: {_to_8_bits(path, largest)}",
        )


def likely_bits(largest: int) -> int:
    """Bits of the camera whose largest value of 16 bits this is: 8, 10, 12, 14 or 16."""
    return next((bits for bits in (8, 10, 12, 14) if largest < 1 << bits), 16)


def _to_8_bits(path: Path, largest: int) -> str:
    shift = max(0, likely_bits(largest) - 8)
    return (
        f"python -c \"import cv2; cv2.imwrite('{path.stem}.8bit.png', "
        f"(cv2.imread('{path.name}', -1) >> {shift}).astype('uint8'))\""
    )


def read_depth(path: Path, depth_scale: float) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Depth image as stored, and as float32 meters; both [H, W].

    Integers are sensor units, ``depth_scale`` of them to the meter; floating point (``.npy``, TIFF, PFM) is meters
    already and ``depth_scale`` does not apply. ``.npy`` may have a third axis of length 1. 0, negative, NaN and Inf
    mean no reading and are kept. Raises InputError for a file that is missing or damaged, has several channels, or 8
    bits, of a format that is not read, and for a scale that is not positive.
    """
    require_scale(depth_scale)
    if path.suffix.lower() == ".npy":
        raw = _without_third_axis(load_npy(path))
    else:
        _refuse_scaled_pfm(path)
        raw = decode(path, cv2.IMREAD_UNCHANGED)
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


def _without_third_axis(array: NDArray[Any]) -> NDArray[Any]:
    """[H, W, 1] and [1, H, W] -> [H, W]: which axis is not the image's is plain."""
    if array.ndim != 3:
        return array
    singles = [axis for axis in (0, 2) if array.shape[axis] == 1]
    return array.squeeze(axis=singles[0]) if len(singles) == 1 else array


def _refuse_scaled_pfm(path: Path) -> None:
    """The third line of a PFM is a number whose sign is the order of bytes. Its size is a scale, by which some programs
    multiply and others, OpenCV among them, divide; Middlebury's files carry one that is to be ignored."""
    data = read_bytes(path)[:200]
    words = data.split()
    if data[:2] not in (b"Pf", b"PF") or len(words) < 4:
        return
    try:
        scale = abs(float(words[3]))
    except ValueError:
        return  # OpenCV refuses it
    if scale != 1:
        raise InputError(
            f"{path.name} is a PFM whose scale line is {scale:g}: programs multiply by it, divide by it or ignore it, "
            "so what its numbers mean is not known",
            'Save the meters as .npy: python -c "import cv2, numpy; '
            f"numpy.save('{path.stem}.npy', cv2.imread('{path.name}', -1) * {scale:g})\" gives the stored numbers.",
        )


def require_scale(depth_scale: float) -> None:
    """Raises InputError unless ``depth_scale`` can be sensor units per meter: positive, micrometers at finest."""
    if not 0 < depth_scale <= 1e6:  # NaN is neither
        raise InputError(
            f"the depth scale must be a positive number of sensor units per meter, up to 1e6, got {depth_scale}",
            "1000 for millimeters, 5000 for TUM RGB-D, 10000 for tenths of a millimeter.",
        )


def effective_scale(raw: NDArray[Any], depth_scale: float) -> float:
    """Units of ``raw`` per meter: ``depth_scale`` for integers, 1 for floating point, which is meters."""
    return depth_scale if np.issubdtype(raw.dtype, np.integer) else 1.0
