"""Where this machine keeps what must not lie in a bundle."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$CDM_EXPORT_CACHE``, else ``$XDG_CACHE_HOME/cdm-export``, else ``~/.cache/cdm-export``; may not exist yet."""
    chosen = os.environ.get("CDM_EXPORT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "cdm-export"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; the folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
