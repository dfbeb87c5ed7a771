"""Where engines are built and kept: a folder that can be written, a lock on it, a folder for what is not finished."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cdm_export.runtimes import engines
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.cache import cache_dir
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.lock import file_lock, random_name
from cdm_export.runtimes.signing import can_sign

LOCK = ".build.lock"


def writable_root(bundle: Bundle) -> Path:
    """Where engines go: into the bundle, or the cache when it cannot be written. Raises InputError when neither can."""
    problems = []
    if not can_sign():
        raise InputError(
            f"an engine could not be marked as built here: {cache_dir()} cannot be written", "Set $CDM_EXPORT_CACHE."
        )
    for root in engines.roots(bundle):
        probe = random_name(root / "engine", "probe")
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            problems.append(f"{root}: {error.strerror}")
            continue
        return root
    raise InputError(f"there is no place for the engine: {'; '.join(problems)}", "Set $CDM_EXPORT_CACHE.")


@contextmanager
def locked(root: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """This machine's lock, since two builds spoil each other's timings, and that of the place the engine goes to, which
    two containers may share. Where the cache cannot be written the second has to do.
    """
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(file_lock(cache_dir() / LOCK, on_wait))
        held.enter_context(file_lock(root / LOCK, on_wait))
        yield


@contextmanager
def unfinished(root: Path, precision: str) -> Iterator[Path]:
    """Folder to build in, gone on any way out unless it was put in its place; the lock's holder clears old ones."""
    for left in root.glob(".*partial-*"):  # also those of versions that named them .partial-NUMBER
        shutil.rmtree(left, ignore_errors=True)
    folder = random_name(root / "engine", "partial") / precision
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
