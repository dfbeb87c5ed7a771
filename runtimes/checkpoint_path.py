"""``FILE#KEY``: one of several sets of weights in a checkpoint file, such as ``last.pt#ema``.

The choice travels wherever the file's path does, into the manifest too, so that ``verify`` makes it again.
"""

import re
from pathlib import Path

_NAMED = re.compile(r"(?P<file>.+\.[A-Za-z]\w*)#(?P<key>[^/#\\]+)")


def split_checkpoint(path: Path) -> tuple[Path, str]:
    """File and key; an empty key for a path that names none, or that exists as it is."""
    named = _NAMED.fullmatch(path.name)
    if named is None or path.exists():
        return path, ""
    return path.with_name(named["file"]), named["key"]


def with_key(path: Path, key: str) -> Path:
    """``path`` with another key, or without one when it is empty."""
    file = split_checkpoint(path)[0]
    return file.with_name(f"{file.name}#{key}") if key else file
