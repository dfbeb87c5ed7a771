"""Which weights were looked at number by number, remembered while the file stays the same: an export has up to six
processes that take them, and one look is enough.
"""

import contextlib
import hashlib
import json
from pathlib import Path

from cdm_export.runtimes.bounded_json import parse_json
from cdm_export.runtimes.cache import cache_dir, write_atomically
from cdm_export.runtimes.file_identity import FileIdentity

_CHECKS = 1
"""Raised whenever what is refused changes."""


def was_checked(file: Path, what: str) -> bool:
    """Whether ``what`` of a file passed: the same file, by device, inode, size and times, and the same checks."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = parse_json(_entry(file, what).read_bytes())
        return bool(known == _stamp(file))
    return False


def remember_checked(file: Path, what: str) -> None:
    """Where the cache cannot be written, they are looked at again."""
    with contextlib.suppress(OSError):
        write_atomically(_entry(file, what), json.dumps(_stamp(file)).encode())


def _entry(file: Path, what: str) -> Path:
    status = file.stat()
    digest = hashlib.sha256(f"{_CHECKS} {what}".encode()).hexdigest()[:16]
    return cache_dir() / "checked" / f"{status.st_dev}-{status.st_ino}-{digest}.json"


def _stamp(file: Path) -> dict[str, int]:
    return dict(vars(FileIdentity.of(file.stat())))
