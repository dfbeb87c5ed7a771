"""JSON from outside, bounded: how large a file may be, how deep, and which numbers count."""

import os
import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cdm_export.runtimes.file_identity import FileIdentity

MIB = 1 << 20
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that is one: JSON's 1e999 is infinite."""
Milliseconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
"""A duration; the limit is 30 years."""
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of things or bytes that JSON readers agree on."""


def read_bounded(path: Path, limit: int) -> tuple[bytes, FileIdentity]:
    """Content of a file of at most ``limit`` bytes, and the very file it was read from.

    Raises OSError; ValueError for what is no file (a pipe would wait for ever), or is larger.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        data = file.read(limit + 1) if status.st_size <= limit else b""
        if status.st_size > limit or len(data) > limit:
            raise ValueError(f"it has {max(status.st_size, len(data)):,} bytes, at most {limit:,} are read")
        return data, FileIdentity.of(status)


def parse_json(data: bytes | str) -> Any:
    """What JSON says. Raises ValueError for anything else, also for what is nested deeper than any record of ours."""
    from pydantic_core import from_json

    return from_json(data, allow_inf_nan=False)
