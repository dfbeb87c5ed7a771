"""A bundle appears whole or not at all.

Everything is written to a hidden folder beside the target and renamed at the end. A killed export leaves only that
folder, which the next export of the same target clears away: the lock in it is free. Names are random, since two
containers that share the disk may both be process 1.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdm_export.runtimes.bounded_json import parse_json, read_bounded
from cdm_export.runtimes.bundle import MANIFEST, MOST_BYTES, FileRecord
from cdm_export.runtimes.errors import InputError, from_os_error
from cdm_export.runtimes.hashing import sha256_of
from cdm_export.runtimes.lock import clear_abandoned, hidden_prefix, hold, random_name

_PARTIAL = "partial"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_target(target: Path, overwrite: bool) -> None:
    """Raise InputError unless a bundle can be published at ``target``; before any long work is begun."""
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise InputError(f"{target} already exists", "Choose another -o, or replace it with --overwrite.")
        _check_replaceable(target)
    parent = target.absolute().parent
    if not parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {parent} does not exist", f"Make it: mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise InputError(f"cannot write {target}: no permission to write in {parent}", "Choose another -o.")


def _check_replaceable(target: Path) -> None:
    """Only a bundle of ours is replaced, and only when nothing of the user's lies in it."""
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"{target} is not a bundle: --overwrite replaces bundles only", "Choose another -o.")
    try:
        manifest = parse_json(read_bounded(target / MANIFEST, MOST_BYTES)[0])
        listed = set(_paths_in(manifest)) if str(manifest["producer"]).startswith("cdm-export ") else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        listed = set()
    if not listed:
        raise InputError(f"{target} is not a bundle: --overwrite replaces bundles only", "Choose another -o.")
    present = (path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir())
    strange = [name for name in present if name not in listed | {MANIFEST} and not name.startswith("engines/")]
    if strange:
        raise InputError(
            f"{target} holds '{sorted(strange)[0]}', which is no part of the bundle: --overwrite would delete it",
            "Move it away first.",
        )


def _paths_in(record: Any) -> Iterator[str]:
    """Every file path of a manifest, of whatever schema version: values of ``path`` keys."""
    if isinstance(record, dict):
        if isinstance(record.get("path"), str):
            yield record["path"]
        for value in record.values():
            yield from _paths_in(value)
    elif isinstance(record, list):
        for value in record:
            yield from _paths_in(value)


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Folder to build a bundle in; removed on any way out, unless ``publish`` has moved it."""
    target = target.absolute()
    clear_abandoned(target.parent, hidden_prefix(target, _PARTIAL))
    outer = random_name(target, _PARTIAL)
    folder = outer / "bundle"  # a folder of its own: the lock is no part of the bundle
    lock = None
    try:
        try:
            outer.mkdir()
            lock = hold(outer)
            folder.mkdir()
        except OSError as error:
            raise cannot_write(target, error) from error
        try:
            yield folder
        except OSError as error:
            if error.filename is None or str(error.filename).startswith(str(outer)):
                raise cannot_write(target, error) from error
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what is large, while the lock is held
        if lock is not None:
            os.close(lock)
        shutil.rmtree(outer, ignore_errors=True)


def publish(folder: Path, target: Path, overwrite: bool) -> None:
    """Put the finished folder in the target's place, atomically; with ``overwrite`` the bundle there goes away after.

    Raises InputError when something has appeared at the target meanwhile that must not go away.
    """
    target = target.absolute()
    try:
        flush(folder)
        _move(folder, target, overwrite)
    except OSError as error:
        raise cannot_write(target, error) from error


def cannot_write(target: Path, error: OSError) -> InputError:
    """The system's refusal while a bundle is made at ``target``."""
    why = from_os_error(error, "a file of the bundle", "choose another -o")
    return InputError(f"cannot write {target}: {error.strerror or error}", why.next_step)


def _move(folder: Path, target: Path, overwrite: bool) -> None:
    check_target(target, overwrite)
    put_in_place(folder, target)


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a finished folder to ``target``, atomically where the system can; what was there goes away after.

    Raises OSError; then ``target`` is what it was.
    """
    if not target.exists():
        folder.rename(target)  # a folder with something in it that appeared this instant makes this fail
    elif _exchange(folder, target):
        shutil.rmtree(folder)
    else:
        # No atomic exchange here: for a moment the old bundle has another name, and comes back when the move fails.
        aside = random_name(target, "replaced")
        target.rename(aside)
        try:
            folder.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside)


def record(root: Path, path: Path) -> FileRecord:
    """Size and sha256 of a file under ``root``."""
    return FileRecord(path=path.relative_to(root).as_posix(), size=path.stat().st_size, sha256=sha256_of(path))


def flush(folder: Path) -> None:
    """Contents reach the disk before the name does, so that a power cut leaves no empty files under a good name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically (Linux renameat2); False where the system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
