"""Where a command may write: never into a bundle, never over something it reads."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from cdm_export.runtimes.errors import InputError

_MANIFEST = "manifest.json"
_OURS = re.compile(rb'"producer"\s*:\s*"cdm-export ')
_MOST = 64 * 2**20
"""Bytes of a manifest that are looked through; the largest seen has 0.5 MB."""
_NEXT = "Choose another -o."


def check_output_paths(outs: Iterable[Path], inputs: Iterable[Path | None] = ()) -> None:
    """Raise InputError when writing one of ``outs`` would change a bundle, any bundle, or replace one of ``inputs``.

    ``inputs`` are files or folders that the command reads, of which None and what does not exist are left out; a bundle
    among them is protected although its manifest is damaged. A link counts as what it points to, and as where it lies.
    Nothing is written.
    """
    given = [path for path in inputs if path is not None and _status(path) is not None]
    names = {path.resolve(): path for path in given}
    same = {_identity(path): path for path in given if not path.is_dir()}
    bundles = {path.resolve() for path in given if (path / _MANIFEST).exists()}
    others: dict[Path, bool] = {}
    for out in outs:
        try:
            places = {out.parent.resolve() / out.name, out.resolve()}
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that no system takes
            raise InputError(f"-o {out}: {error}", _NEXT) from error
        clash = next((names[place] for place in places if place in names), None) or same.get(_identity(out))
        if clash is not None:
            raise InputError(f"-o {out} would write over the input {clash}", _NEXT)
        for folder in {parent for place in places for parent in place.parents}:
            if folder not in others:
                others[folder] = folder in bundles or _is_bundle(folder)
            if others[folder]:
                raise InputError(f"-o {out} is inside the bundle {folder}, which is never changed", _NEXT)


def check_replaced_path(out: Path, inputs: Iterable[Path | None] = ()) -> None:
    """``check_output_paths`` of a folder that is replaced as a whole: nothing in it may be an input either."""
    given = tuple(inputs)
    if not out.is_dir():
        check_output_paths((out,), given)
        return
    check_output_paths((out,))
    for path in given:
        if path is not None and _status(path) is not None and path.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{path} lies inside {out}, which would be replaced", _NEXT)


def _is_bundle(folder: Path) -> bool:
    """By its manifest, which is searched rather than parsed: it may be damaged, or hostile."""
    try:
        with (folder / _MANIFEST).open("rb") as file:
            return _OURS.search(file.read(_MOST)) is not None
    except OSError:
        return False


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file, the same under all its names; None where there is none."""
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)
