"""One process at a time, and work of processes that are gone: locks on files, which the system releases when their
owner dies. A process's number says neither: in containers everybody is number 1.
"""

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TRY_EVERY = 0.2
"""Seconds."""
LOCK = ".lock"
"""In a folder that goes when its owner does; held as long as the owner lives."""
_LONGEST = 50
"""Characters of a name kept in a hidden one; a name has 255 bytes on most disks, a character up to 4."""
_WEEK = 7 * 24 * 3600
"""Seconds. A folder without a lock is abandoned when nothing in it changed for as long: it was made where files cannot
be locked, by an earlier version, or by a process killed in its first instant."""


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock while inside; ``on_wait`` is called once when another process holds it.

    The file stays behind, empty: removing it would let two processes hold different files of one name. Raises OSError
    when it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        told = False
        while not _try(descriptor):
            if not told:
                on_wait()
                told = True
            time.sleep(_TRY_EVERY)
        yield
    finally:
        os.close(descriptor)


def hidden_prefix(path: Path, what: str) -> str:
    """How hidden names of ``what`` is on its way to ``path`` begin; shorter than the longest name a disk takes."""
    return f".{path.name[:_LONGEST]}.{what}-"


def random_name(path: Path, what: str) -> Path:
    """A hidden name beside ``path`` that nobody else has, in whatever container: ``.NAME.WHAT-RANDOM``."""
    return path.with_name(hidden_prefix(path, what) + secrets.token_hex(6))


def hold(folder: Path) -> int | None:
    """Mark a new folder as this process's, until the descriptor returned is closed; None where files cannot be locked.

    The lock gets its name when it is held: nobody can find it free before.
    """
    unnamed = folder / f"{LOCK}.new"
    descriptor = None
    try:
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _try(descriptor):
            unnamed.rename(folder / LOCK)
            return descriptor
    except OSError:
        pass
    if descriptor is not None:
        os.close(descriptor)
    return None


def clear_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders in ``parent`` whose names begin with ``prefix``, whose owners are gone, and which are this
    user's; those of the living stay. What cannot be removed or looked at stays too.
    """
    try:
        found = [entry for entry in os.scandir(parent) if entry.name.startswith(prefix)]
    except OSError:
        return
    for entry in found:
        with suppress(OSError):
            if not entry.is_dir(follow_symlinks=False) or not _is_mine(entry.stat(follow_symlinks=False)):
                continue
            _clear(Path(entry.path))


def _clear(folder: Path) -> None:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        if time.time() - _last_change(folder) > _WEEK:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        if _try(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _last_change(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _is_mine(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _try(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
