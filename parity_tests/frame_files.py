"""Small images written to files, and what reading them refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources import SourceFrame

RNG = np.random.default_rng(3)
COLOR = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
DEPTH = RNG.integers(500, 4000, (12, 16), dtype=np.uint16)


def write(path: Path, image: NDArray[Any]) -> Path:
    """RGB or single-channel ``image`` in the format of the suffix, at any path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(stored))[1].tobytes())
    return path


def folder_of(folder: Path, *stems: str) -> Path:
    for stem in stems:
        write(folder / f"{stem}.color.png", COLOR)
        write(folder / f"{stem}.depth.png", DEPTH)
    return folder


def raw_of(loaded: SourceFrame) -> NDArray[Any]:
    assert loaded.raw_depth is not None
    return loaded.raw_depth


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


def with_depth(raw: NDArray[Any], scale: float) -> SourceFrame:
    meters = (raw / scale).astype(np.float32)
    return SourceFrame("f", Frame(np.zeros((*raw.shape, 3), np.uint8), meters), raw, scale)
