"""Image files through OpenCV, with what its libraries only say to the terminal turned into errors.

libjpeg fills what it cannot decode with gray, prints one line to standard error, and reports success; OpenCV hands that
on (5.0). Pillow hides the line (13.0). So standard error is read while a file is decoded.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import LARGEST_SIDE
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources import tiff
from cdm_export.runtimes.sources.containers import damage, pixels
from cdm_export.runtimes.sources.files import read_bytes
from cdm_export.runtimes.sources.formats import unread_format

_HARMLESS = 16
"""Surplus bytes after the last pixel's data in a JPEG: some cameras pad. More is data that was not understood."""
_LOST = re.compile(r"(?:Corrupt JPEG data: (?!\d+ extraneous)|Premature end of |Inconsistent progression)[^\n]*")
_SURPLUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker")
_ONE_AT_A_TIME = threading.Lock()


def decode(path: Path, flags: int) -> NDArray[Any]:
    """Image as ``cv2.imdecode`` gives it. With ``IMREAD_IGNORE_ORIENTATION`` (``IMREAD_UNCHANGED`` has it) no format is
    turned.

    Raises InputError for a file that is missing, damaged, too large, or of a format that is not read.
    """
    data = read_bytes(path)
    known = unread_format(path, data)
    if known is not None and not known.tried:
        raise InputError(f"{path.name} is {known.name}, which is not read", known.advice(path))
    sides = pixels(data)
    if sides is not None and not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise InputError(
            f"{path.name} says that it is {sides[0]}x{sides[1]}: images are read up to {LARGEST_SIDE}x{LARGEST_SIDE}"
        )
    reason = damage(data)
    image: NDArray[Any] | None = None
    if not reason:
        if flags == cv2.IMREAD_UNCHANGED or flags & cv2.IMREAD_IGNORE_ORIENTATION:
            data = tiff.as_stored(data)
        image, reason = _imdecode(data, flags)
    if image is None or reason:
        if known is not None:
            raise InputError(f"{path.name} is {known.name}, which is not read here", known.advice(path))
        raise InputError(
            f"{path.name} cannot be read as an image: {reason or 'the format is unknown or the file is damaged'}",
            "Check that the file was copied completely, and opens in an image viewer.",
        )
    return image


def _imdecode(data: bytes, flags: int) -> tuple[NDArray[Any] | None, str]:
    """The image, None when there is none, and what is wrong with it."""
    logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5; OpenCV 4 has these two at the top.
    with _ONE_AT_A_TIME:
        level = logging.getLogLevel()
        logging.setLogLevel(0)  # Silent: the user gets our message, once.
        try:
            with _standard_error() as said:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
                return image, _lost(said())
        except cv2.error as error:  # Empty, or larger than OpenCV agrees to decode.
            return None, " ".join(str(error.err).split())
        finally:
            logging.setLogLevel(level)


def _lost(said: str) -> str:
    """What libjpeg says of data that it could not decode; empty when every pixel is from the file."""
    lost = _LOST.search(said)
    if lost:
        return f"part of the picture is lost ({lost[0]})"
    surplus = _SURPLUS.search(said)
    if surplus and int(surplus[1]) > _HARMLESS:
        return f"part of the picture is lost ({surplus[1]} bytes of it could not be understood)"
    return ""


@contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """What C libraries write to descriptor 2 meanwhile. Where there is none, or on Windows, whose libraries each have
    descriptors of their own, that is nothing.

    What another thread of ours writes in these milliseconds is lost to the terminal; Python's own buffer is emptied
    before.
    """
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError):
        yield str
        return
    with _memory() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: _text(file)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _memory() -> Any:
    """A file in memory where the system has them: a full disk is no reason not to read an image."""
    memory = getattr(os, "memfd_create", None)
    return tempfile.TemporaryFile() if memory is None else os.fdopen(memory("stderr"), "w+b")


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read(65536), "utf-8", "replace")
