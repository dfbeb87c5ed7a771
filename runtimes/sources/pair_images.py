"""The images of a pair: what infrared cameras give becomes RGB of 8 bits, both images alike, and that is said."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.decode import decode
from cdm_export.runtimes.sources.images import likely_bits, read_color


def read_eyes(*paths: Path) -> tuple[list[NDArray[np.uint8]], tuple[str, ...]]:
    """Each image as uint8 [H, W, 3] RGB, and notes on what was made of them.

    Rotations noted in the files are ignored: a calibration is of the pixels as they are stored. Gray becomes three
    equal channels. A single channel of 16 bits (which alone would be a depth image) loses its lowest bits; how many,
    the largest value of all the images decides, so that they stay alike. Raises InputError as ``read_color`` does.
    """
    stored = [decode(path, cv2.IMREAD_UNCHANGED) for path in paths]
    deep = [image for image in stored if _is_deep(image)]
    bits = likely_bits(max(int(image.max()) for image in deep)) if deep else 8
    notes = []
    if deep:
        notes.append(f"gray of 16 bits became RGB of 8 bits: it holds {bits}, divided by {1 << (bits - 8)}")
    if any(image.ndim == 2 and image.dtype == np.uint8 for image in stored):
        notes.append("gray images became RGB, three equal channels")
    if len({image.ndim == 2 for image in stored}) > 1:
        notes.append(f"{paths[0].name} and {paths[1].name} are not alike: one is gray, the other has colors")
    made = [
        _of_gray(image, bits - 8) if _is_deep(image) else read_color(path)
        for image, path in zip(stored, paths, strict=True)
    ]
    return made, tuple(notes)


def split(name: str, both: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Left and right half of [H, W, 3]. Raises InputError for an odd width."""
    width = both.shape[1]
    if width % 2:
        raise InputError(
            f"{name} is {width} pixels wide, an odd number: two images side by side have an even one",
            "Crop it to two images of one size.",
        )
    left, right = both[:, : width // 2], both[:, width // 2 :]
    return np.ascontiguousarray(left), np.ascontiguousarray(right)


def _is_deep(image: NDArray[Any]) -> bool:
    return image.ndim == 2 and image.dtype == np.uint16


def _of_gray(image: NDArray[np.uint16], shift: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor((image >> shift).astype(np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)
