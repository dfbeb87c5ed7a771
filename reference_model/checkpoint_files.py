"""Files that are no checkpoint, told by name and first bytes, each with the step that makes or gets one."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from cdm_export.runtimes.errors import CheckpointError

DOWNLOAD_AGAIN = "Download or copy it again and compare its size and sha256 with the source's."
_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_SHOWN = 8
"""Names listed in a message before the rest is only counted."""


def some(names: Iterable[str]) -> str:
    """First names, and how many more there are."""
    listed = list(names)
    more = f", and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def refuse_what_is_no_checkpoint(path: Path) -> None:
    """Everything that can be told from the name and the first bytes. Raises CheckpointError; OSError from reading."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint file", "See: cdm-export models")
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in _SUFFIXES)
        raise CheckpointError(
            f"{path} is a directory; expected one file ({', '.join(_SUFFIXES)})",
            f"Give one of its files: {some(files)}" if files else "It holds no such file.",
        )
    with path.open("rb") as file:
        start = file.read(256)
    size = path.stat().st_size
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes); expected a checkpoint", "Download or copy it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-lfs pointer of {size} bytes, not the weights it points to", "Fetch them: git lfs pull"
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page of {size} bytes, not weights",
            "Download the file itself; on Hugging Face: hf download REPOSITORY FILE",
        )
    _refuse_shards(path, start)
    if not any(start):
        raise CheckpointError(f"{path} is all zero at its beginning: nothing of it was written", DOWNLOAD_AGAIN)
    if not (start[:2] == b"PK" or start[:1] == b"\x80" or start[8:9] == b"{"):
        raise CheckpointError(
            f"{path} is neither a PyTorch file nor safetensors; it begins with {start[:16]!r}",
            f"Give the trained weights ({', '.join(_SUFFIXES)}).",
        )


def _refuse_shards(path: Path, start: bytes) -> None:
    """A part of weights that were split, or the list of the parts: one file is one checkpoint here, with one sha256."""
    shard = _SHARD.fullmatch(path.name)
    if shard is not None and int(shard["count"]) > 1:
        stem, suffix = shard["stem"], shard["suffix"]
        what = f"one of {int(shard['count'])} parts of a checkpoint that was split"
    elif start.lstrip()[:1] == b"{" and path.name.endswith(".index.json"):
        stem, suffix = path.name.removesuffix(".index.json"), ""
        what = f"the list of parts of a checkpoint that was split: {some(_parts(path)) or 'none'}"
        suffix = Path(stem).suffix
        stem = stem.removesuffix(suffix)
    else:
        return
    pattern = str(path.parent / f"{stem}-*{suffix}")
    raise CheckpointError(f"{path} is {what}; expected one file with all the tensors", _merge(pattern, suffix))


def _parts(path: Path) -> list[str]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(name) for name in listed.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _merge(pattern: str, suffix: str) -> str:
    """The command that joins the parts. It unpickles nothing but tensors."""
    load, imported = "load_file(f)", "from safetensors.torch import load_file; "
    if suffix != ".safetensors":
        load, imported = "torch.load(f, map_location='cpu', weights_only=True)", ""
    code = (
        f"import glob, torch; {imported}"
        f"torch.save({{k: v for f in glob.glob({pattern!r}) for k, v in {load}.items()}}, 'weights.pt')"
    )
    return f'Join the parts, then give weights.pt: python -c "{code}"'
