"""sha256 of files, and a cache of it for files that did not change."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

from cdm_export.runtimes.bounded_json import parse_json
from cdm_export.runtimes.cache import cache_dir, write_atomically
from cdm_export.runtimes.file_identity import FileIdentity


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content, read in 1 MiB pieces."""
    with path.open("rb") as file:
        return _sha256(file)


def cached_sha256(path: Path) -> str:
    """``sha256_of``, remembered while device, inode, size, mtime and ctime stay the same.

    ctime is part of the key because mtime can be set back by whoever changes the file. A cache that cannot be read or
    written is no error: the file is hashed.
    """
    return identified_sha256(path)[0]


def identified_sha256(path: Path, cached: bool = True) -> tuple[str, FileIdentity]:
    """The sha256 and the very file it is of, whatever its name means a moment later; ``cached`` as ``cached_sha256``.

    Raises OSError.
    """
    with path.open("rb") as file:
        identity = FileIdentity.of(os.fstat(file.fileno()))
        entry = cache_dir() / "sha256" / f"{identity.device}-{identity.inode}.json"
        stamp = [identity.size, identity.modified_ns, identity.changed_ns]
        if cached:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                known = parse_json(entry.read_bytes())
                if known["stamp"] == stamp:
                    return str(known["sha256"]), identity
        digest = _sha256(file)
        after = FileIdentity.of(os.fstat(file.fileno()))
    if cached and after == identity:  # else it was written to meanwhile, and is not the same when it is looked at again
        with contextlib.suppress(OSError):
            write_atomically(entry, json.dumps({"stamp": stamp, "sha256": digest}).encode())
    return digest, identity


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
