"""A list of frames in a file, for data whose names follow no rule of ours."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from cdm_export.runtimes.calibration import Calibration
from cdm_export.runtimes.calibration_files import calibration_of
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.folder import RIGHT_LEFT_OUT
from cdm_export.runtimes.sources.frame_files import FrameFiles, Reading, load_frame

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
    right: str | None = Field(default=None, min_length=1)
    """Right image of a pair whose left one is ``color``."""
    calibration: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = None
    """Of this frame's camera or cameras: a file, or what ``cdm_export.write_calibration`` writes."""
    name: str | None = Field(default=None, pattern=_NAME)
    """Name of the frame, the stem of what is written for it; the stem of ``color`` when left out."""


class FramesFile(Record):
    """The whole ``frames.json``."""

    frames: tuple[FrameEntry, ...] = Field(min_length=1)
    """In the order they are used."""
    depth_scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Sensor units per meter where a frame does not say."""
    calibration: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = None
    """Where a frame does not say."""
    side_by_side: bool = False
    """Whether every ``color`` is a pair: left half, right half."""


class FramesJsonSource:
    """Frames of a ``frames.json``; a depth scale in the file goes before the one given on the command line."""

    unpaired: tuple[str, ...] = ()

    def __init__(self, path: Path, reading: Reading, calibration: Path | None = None) -> None:
        """Reads the list, not the images; ``calibration`` goes before those in the list. Raises InputError with the
        place in the file for anything out of schema, and for calibrations in the list that are none."""
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
        scale = listed.depth_scale or reading.depth_scale
        side_by_side = listed.side_by_side or reading.side_by_side
        self._readings = [
            replace(reading, depth_scale=entry.depth_scale or scale, side_by_side=side_by_side)
            for entry in listed.frames
        ]
        shared = _calibration(path, "calibration", listed.calibration) if calibration is None else (calibration,)
        self._frames = [
            FrameFiles(
                path.parent / entry.color,
                path.parent / entry.depth if entry.depth else None,
                path.parent / entry.right if entry.right else None,
                _calibration(path, f"frames[{index}].calibration", entry.calibration)
                if calibration is None and entry.calibration
                else shared,
            )
            for index, entry in enumerate(listed.frames)
        ]
        self.files = tuple(dict.fromkeys((path, *(file for frame in self._frames for file in frame.paths))))
        pairs = len(names) if side_by_side else sum(entry.right is not None for entry in listed.frames)
        self.left_out = (RIGHT_LEFT_OUT.format(pairs),) if pairs and not reading.needs_right else ()

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``. Raises InputError when one of its files cannot be used."""
        return load_frame(self.names[index], self._frames[index], self._readings[index])


def _calibration(path: Path, place: str, given: str | dict[str, Any] | None) -> tuple[Path, ...] | Calibration | None:
    if isinstance(given, dict):
        return calibration_of(given, f"{path.name}: {place}")
    return None if given is None else (path.parent / given,)


_EXAMPLE = 'Example: {"depth_scale": 1000, "frames": [{"color": "a.jpg", "depth": "a.png"}]}'


def _first_problem(error: ValidationError) -> str:
    """Place and cause of the first problem, ``frames[1].color: Field required``, and how many more there are."""
    problems = error.errors(include_url=False)
    place = ""
    for step in problems[0]["loc"]:
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{place.lstrip('.')}: " if place else "") + problems[0]["msg"] + more
