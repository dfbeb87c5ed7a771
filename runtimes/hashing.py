"""sha256 of files, and a cache of it for files that did not change."""

import contextlib
import hashlib
import json
from pathlib import Path

from cdm_export.runtimes.cache import cache_dir, write_atomically


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def cached_sha256(path: Path) -> str:
    """``sha256_of``, remembered while device, inode, size, mtime and ctime stay the same.

    ctime is part of the key because mtime can be set back by whoever changes the file. A cache that cannot be read or
    written is no error: the file is hashed.
    """
    status = path.stat()
    key = f"{status.st_dev}-{status.st_ino}"
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    entry = cache_dir() / "sha256" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(entry.read_text())
        if known["stamp"] == stamp:
            return str(known["sha256"])
    digest = sha256_of(path)
    with contextlib.suppress(OSError):
        write_atomically(entry, json.dumps({"stamp": stamp, "sha256": digest}).encode())
    return digest
