"""Where this machine keeps what must not lie in a bundle."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cdm_export.runtimes.lock import random_name


def cache_dir() -> Path:
    """``$CDM_EXPORT_CACHE``, else ``$XDG_CACHE_HOME/cdm-export``, else ``~/.cache/cdm-export``; may not exist yet."""
    chosen = os.environ.get("CDM_EXPORT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "cdm-export"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; the folder is made when missing. Raises OSError, which names the file."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files: all of them whole, or, where one finds no room, none. Raises OSError, which names the file.

    What is there under these names stays until everything is on the disk.
    """
    temporary = {path: random_name(path, "partial") for path in files}
    try:
        for path, data in files.items():
            with naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary[path].write_bytes(data)
        for path, written in temporary.items():
            with naming(path):
                written.replace(path)
    finally:
        for written in temporary.values():
            with suppress(OSError):
                written.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError raised inside is raised as one of ``path``: a failed write does not know its file's name, and that of
    a temporary file means nothing to anybody.
    """
    try:
        yield
    except OSError as error:
        # NumPy tells of a short write in words alone.
        raise OSError(error.errno or errno.ENOSPC, error.strerror or str(error), str(path)) from error
