"""The bytes of a file that somebody named, bounded before they are read."""

import difflib
from pathlib import Path

from cdm_export.runtimes.errors import InputError

_LARGEST = 2**31
"""Bytes: 16384x16384 numbers of 8 bytes, the largest frame there is."""


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises InputError when it is missing (with names like it), no regular file, or too large."""
    if path.is_dir():
        raise InputError(
            f"{path.name} is a folder: expected an image file", "Give the file, or the folder as --frames."
        )
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is a device or a pipe: expected an image file")
        size = path.stat().st_size
        if size > _LARGEST:
            raise InputError(f"{path.name} has {size} bytes: no image of up to 16384x16384 pixels is as large")
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
