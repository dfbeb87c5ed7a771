"""A ``.npy`` file, its header judged before anything of its size is allocated."""

import io
import math
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.files import read_bytes

MAGIC = b"\x93NUMPY"
_READERS: Any = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def load_npy(path: Path) -> NDArray[Any]:
    """The array, read-only, of numbers or booleans. Raises InputError for any other file; nothing is ever unpickled."""
    data = read_bytes(path)
    if data.startswith(b"PK\x03\x04"):
        raise InputError(f"{path.name} is an archive of arrays: expected one array saved by numpy.save")
    shape, in_columns, dtype, start = _header(path, data)
    if dtype.kind not in "biufcSU":
        raise InputError(f"{path.name} is not a numpy array of numbers: its elements are {dtype}")
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or wanted != len(data) - start:
        raise InputError(
            f"{path.name} is not a numpy array of numbers: its header says shape {_short(shape)} of {dtype}, "
            f"{_short(wanted)} bytes, and {len(data) - start} follow",
            "Check that the file was copied completely.",
        )
    if dtype.itemsize == 0 or wanted == 0:
        raise InputError(f"{path.name} is not a depth image: it is empty, of shape {_short(shape)}")
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=start)
    return array.reshape(shape, order="F" if in_columns else "C")


def _header(path: Path, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, type, and where the numbers begin.

    NumPy evaluates the header as Python text, and what fails there escapes as it is.
    """
    file = io.BytesIO(data)
    try:
        version = npy_format.read_magic(file)
        reader = _READERS.get(version)
        if reader is None:
            raise ValueError(f"format version {version} is not read")
        shape, in_columns, dtype = reader(file)
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, SyntaxError, OverflowError, MemoryError,
        RecursionError, tokenize.TokenError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path.name} is not a numpy array of numbers: its header cannot be read "
            f"({type(error).__name__}: {_short(error)})",
            "Save it again, with numpy.save.",
        ) from error
    return shape, bool(in_columns), dtype, file.tell()


def _short(what: object) -> str:
    """One line of at most 120 characters; an integer too long to print has as many digits as it says."""
    try:
        text = " ".join(str(what).split())
    except ValueError:  # more digits than Python prints
        return "more numbers than can be written down"
    return text if len(text) <= 120 else text[:117] + "..."
