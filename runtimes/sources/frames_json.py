"""A list of frames in a file, for data whose names follow no rule of ours."""

import re
from collections import Counter
from pathlib import Path

from pydantic import Field, ValidationError

from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.images import load_pair

_NAME = r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,100}$"
"""Good as the stem of a file name anywhere: no separator, no control character, no leading dot, not too long."""


class FrameEntry(Record):
    """One frame."""

    color: str = Field(min_length=1)
    """Color image; relative paths start at the folder of the file."""
    depth: str | None = Field(default=None, min_length=1)
    """Depth image; without one the frame is only good for models that take no depth."""
    depth_scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Sensor units per meter of this frame."""
    name: str | None = Field(default=None, pattern=_NAME)
    """Name of the frame, the stem of what is written for it; the stem of ``color`` when left out."""


class FramesFile(Record):
    """The whole ``frames.json``."""

    frames: tuple[FrameEntry, ...] = Field(min_length=1)
    """In the order they are used."""
    depth_scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Sensor units per meter where a frame does not say."""


class FramesJsonSource:
    """Frames of a ``frames.json``; a depth scale in the file goes before the one given on the command line."""

    unpaired: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self, path: Path, depth_scale: float) -> None:
        """Reads the list, not the images. Raises InputError with the place in the file for anything out of schema."""
        try:
            listed = FramesFile.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be opened: {error.strerror}") from error
        except ValidationError as error:
            raise InputError(f"{path.name}: {_first_problem(error)}", _EXAMPLE) from error
        names = [entry.name or re.sub(r"\.color$", "", Path(entry.color).stem) for entry in listed.frames]
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise InputError(f"{path.name}: {count} frames are called '{name}'", 'Give each a "name" of its own.')
        self.names = tuple(names)
        self.description = f"{path.name} in {path.resolve().parent.name} ({len(names)} frames)"
        self._entries = listed.frames
        self._folder = path.parent
        read = (file for entry in listed.frames for file in (entry.color, entry.depth) if file)
        self.files = (path, *(path.parent / file for file in read))
        self._depth_scale = listed.depth_scale or depth_scale

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``. Raises InputError when one of its files cannot be used."""
        entry = self._entries[index]
        depth = self._folder / entry.depth if entry.depth else None
        scale = entry.depth_scale or self._depth_scale
        return load_pair(self.names[index], self._folder / entry.color, depth, scale)


_EXAMPLE = 'Example: {"depth_scale": 1000, "frames": [{"color": "a.jpg", "depth": "a.png"}]}'


def _first_problem(error: ValidationError) -> str:
    """Place and cause of the first problem, ``frames[1].color: Field required``, and how many more there are."""
    problems = error.errors(include_url=False)
    place = ""
    for step in problems[0]["loc"]:
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{place.lstrip('.')}: " if place else "") + problems[0]["msg"] + more
