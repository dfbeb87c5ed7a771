"""Which file of a folder is what, by names alone: images of frames, and a calibration beside them."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.formats import unread_image

COLOR = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
"""Endings of color images, and of both images of a pair."""
_DEPTH = {".png", ".tif", ".tiff", ".npy"}

Files: TypeAlias = dict[str, Path]
"""By the name of the frame."""

_MONO, _PAIR = ("color", "left"), ("left", "color")
"""Names of the color image, the one that goes before the other first: of one camera, and of a pair."""
_MONO_FOLDERS, _PAIR_FOLDERS = ("rgb", "color", "left", "image_2"), ("left", "image_2", "rgb", "color")
_RIGHT_OF = {"image_2": "image_3"}
"""KITTI's color cameras are 2 and 3; beside any other folder the right images lie in ``right/``."""
_CALIBRATION = re.compile(
    r"calib\.txt|calib_cam_to_cam\.txt|calibration\.(?:json|ya?ml|xml|txt)|camera_intrinsic\.json"
    r"|camera_info.*\.ya?ml|(?:left|right)\.ya?ml",
    re.IGNORECASE,
)
_EYES = re.compile(r"(.*?)[._-]?(left|right)", re.IGNORECASE)
_PER_FRAME = ("calib", "calib_cam_to_cam")


@dataclass
class Layout:
    """What a folder holds."""

    color: Files = field(default_factory=dict)
    """Color or left images."""
    depth: Files = field(default_factory=dict)
    """Depth images that belong to them."""
    right: Files = field(default_factory=dict)
    """Right images."""
    set_aside: list[str] = field(default_factory=list)
    """Sentences about images that could have been the color ones too."""

    @property
    def empty(self) -> bool:
        """Whether no file has a name of these."""
        return not (self.color or self.depth or self.right)

    @property
    def used(self) -> set[Path]:
        """Every file."""
        return {*self.color.values(), *self.depth.values(), *self.right.values()}


def layout_of(folder: Path, needs_depth: bool, needs_right: bool) -> Layout:
    """``STEM.color.*``, ``STEM.left.*``, ``STEM.depth.*``, ``STEM.right.*``; or folders with equal stems; or, where one
    image is a frame, every image. Raises InputError when two files claim one place."""
    found = _by_suffix(folder, needs_right)
    if found.empty:
        found = _by_subfolder(folder, needs_right)
    if found.empty and not needs_depth and not needs_right:
        found.color = all_images(folder)
    return found


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares runs of digits as numbers: ``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def all_images(folder: Path) -> Files:
    """Every image, by its stem."""
    color: Files = {}
    for path in files_in(folder):
        if path.suffix.lower() in COLOR:
            _add(color, path.stem, path)
    return color


def files_in(folder: Path) -> list[Path]:
    """Visible files; macOS leaves ``._NAME`` beside every file it copies to a foreign disk."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _by_suffix(folder: Path, needs_right: bool) -> Layout:
    kinds: dict[str, Files] = {"color": {}, "left": {}, "depth": {}, "right": {}}
    for path in files_in(folder):
        match = re.fullmatch(r"(.+)\.(color|left|depth|right)", path.stem, re.IGNORECASE)
        if match and path.suffix.lower() in (_DEPTH if match[2].lower() == "depth" else COLOR):
            _add(kinds[match[2].lower()], match[1], path)
    first, second = (kinds[name] for name in (_PAIR if needs_right else _MONO))
    # Depth beside both is aligned to color, as cameras with a pair of infrared images give it.
    depth = {} if needs_right and first and second else kinds["depth"]
    return Layout(first or second, depth, kinds["right"])


def _by_subfolder(folder: Path, needs_right: bool) -> Layout:
    order = _PAIR_FOLDERS if needs_right else _MONO_FOLDERS
    there = [name for name in order if (folder / name).is_dir()]
    name = there[0] if there else order[0]
    found = Layout(
        _stems(folder / name, COLOR),
        _stems(folder / "depth", _DEPTH),
        _stems(folder / _RIGHT_OF.get(name, "right"), COLOR),
    )
    if not found.empty:
        found.set_aside = [f"left out: the images in {other}/; those in {name}/ are used" for other in there[1:]]
    return found


def _stems(folder: Path, endings: set[str]) -> Files:
    found: Files = {}
    for path in files_in(folder) if folder.is_dir() else []:
        if path.suffix.lower() in endings:
            _add(found, path.stem, path)
    return found


def _add(found: Files, stem: str, path: Path) -> None:
    if stem in found:
        raise InputError(
            f"two files claim the same place in frame '{stem}': {found[stem].name} and {path.name}",
            "Remove one, or list the frames in a frames.json.",
        )
    found[stem] = path


def calibrations_in(folder: Path) -> list[tuple[Path, ...]]:
    """Files named as a calibration of all frames; ROS's of a left and a right camera are one calibration."""
    named = [path for path in files_in(folder) if _CALIBRATION.fullmatch(path.name)]
    eyes: dict[str, dict[str, Path]] = {}
    for path in named:
        match = _EYES.fullmatch(path.stem)
        if match:
            eyes.setdefault(match[1], {})[match[2].lower()] = path
    pairs = [(both["left"], both["right"]) for both in eyes.values() if len(both) == 2]
    paired = {path for pair in pairs for path in pair}
    # left.yaml alone is no name of a calibration: anything may be called so.
    alone = [(path,) for path in named if path not in paired and path.stem.lower() not in ("left", "right")]
    return [*pairs, *alone]


def calibrations_by_frame(folder: Path) -> tuple[str, Files]:
    """Name of the folder that has a calibration for each frame, as KITTI's, and those; empty without."""
    for name in _PER_FRAME:
        found = _stems(folder / name, {".txt", ".json", ".yaml", ".yml", ".xml"})
        if found:
            return name, found
    return "", {}


def left_out(folder: Path, used: set[Path], parts: str) -> tuple[str, ...]:
    """A sentence for every format that is not read, one for images that are not named as ``parts`` of a frame."""
    beside = [
        path
        for where in (folder, *sorted({path.parent for path in used} - {folder}))
        for path in files_in(where)
        if path not in used
    ]
    formats: dict[str, list[Path]] = {}
    others = []
    for path in beside:
        unread = unread_image(path)
        if unread is not None:
            formats.setdefault(unread.name, []).append(path)
        elif path.suffix.lower() in COLOR:
            others.append(path)
    sentences = []
    for name, paths in formats.items():
        unread = unread_image(paths[0])
        assert unread is not None
        sentences.append(f"left out: {_some(paths)}, {name}, which is not read. {unread.advice(paths[0])}")
    if others:
        sentences.append(f"left out: {_some(others)}, not named as the {parts} of a frame")
    return tuple(sentences)


def _some(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in sorted(paths, key=lambda path: natural_key(path.name))[:6])
    return shown + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")
