"""A folder of images as a frame source."""

import re
from pathlib import Path

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.formats import unread_image
from cdm_export.runtimes.sources.images import load_pair

_COLOR = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
_DEPTH = {".png", ".tif", ".tiff", ".npy"}


class FolderSource:
    """Pairs ``STEM.color.*`` with ``STEM.depth.*``; in a folder without such names, ``rgb/`` (or ``color/``) with
    ``depth/`` by stem. In natural order: ``frame2`` before ``frame10``.

    Where depth is not needed, color without depth is a frame too, and in a folder without such names every image is.
    """

    def __init__(self, folder: Path, depth_scale: float, needs_depth: bool = True) -> None:
        """Looks at names only. Raises InputError when nothing pairs, or two files claim one place."""
        color, depth = _by_suffix(folder)
        if not color and not depth:
            color, depth = _by_subfolder(folder)
        if not color and not depth and not needs_depth:
            color = _all_images(folder)
        stems = sorted(color.keys() & depth.keys() if needs_depth else color.keys(), key=natural_key)
        alone = [color[stem] for stem in color.keys() - stems]
        alone += [depth[stem] for stem in depth.keys() - stems]
        self.unpaired = tuple(sorted((path.relative_to(folder).as_posix() for path in alone), key=natural_key))
        """Files with a color or depth name whose counterpart is missing, relative to the folder."""
        self.left_out = _left_out(folder, {*color.values(), *depth.values()})
        if not stems:
            raise _nothing_pairs(folder, self) if needs_depth else _no_image(folder, self)
        self.names = tuple(stems)
        self.description = f"folder {folder.resolve().name} ({len(stems)} frames)"
        self._pairs = [(color[stem], depth.get(stem)) for stem in stems]
        self.files = tuple(path for pair in self._pairs for path in pair if path is not None)
        self._depth_scale = depth_scale

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``. Raises InputError when one of its files cannot be used."""
        return load_pair(self.names[index], *self._pairs[index], self._depth_scale)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares runs of digits as numbers: ``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _by_suffix(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    color: dict[str, Path] = {}
    depth: dict[str, Path] = {}
    for path in _files(folder):
        match = re.fullmatch(r"(.+)\.(color|depth)", path.stem, re.IGNORECASE)
        if not match:
            continue
        found, kinds = (color, _COLOR) if match[2].lower() == "color" else (depth, _DEPTH)
        if path.suffix.lower() in kinds:
            _add(found, match[1], path)
    return color, depth


def _by_subfolder(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    color: dict[str, Path] = {}
    depth: dict[str, Path] = {}
    color_folder = folder / "rgb" if (folder / "rgb").is_dir() else folder / "color"
    for subfolder, found, kinds in ((color_folder, color, _COLOR), (folder / "depth", depth, _DEPTH)):
        for path in _files(subfolder) if subfolder.is_dir() else []:
            if path.suffix.lower() in kinds:
                _add(found, path.stem, path)
    return color, depth


def _all_images(folder: Path) -> dict[str, Path]:
    color: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() in _COLOR:
            _add(color, path.stem, path)
    return color


def _files(folder: Path) -> list[Path]:
    """Visible files; macOS leaves ``._NAME`` beside every file it copies to a foreign disk."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _add(found: dict[str, Path], stem: str, path: Path) -> None:
    if stem in found:
        raise InputError(
            f"two files claim the same place in frame '{stem}': {found[stem].name} and {path.name}",
            "Remove one, or list the frames in a frames.json.",
        )
    found[stem] = path


def _left_out(folder: Path, used: set[Path]) -> tuple[str, ...]:
    """A sentence for every format that is not read, one for images whose names are not those of frames."""
    beside = [
        path
        for where in (folder, *sorted({path.parent for path in used} - {folder}))
        for path in _files(where)
        if path not in used
    ]
    formats: dict[str, list[Path]] = {}
    others = []
    for path in beside:
        unread = unread_image(path)
        if unread is not None:
            formats.setdefault(unread.name, []).append(path)
        elif path.suffix.lower() in _COLOR:
            others.append(path)
    sentences = []
    for name, paths in formats.items():
        unread = unread_image(paths[0])
        assert unread is not None
        sentences.append(f"left out: {_some(paths)}, {name}, which is not read. {unread.advice(paths[0])}")
    if others:
        sentences.append(f"left out: {_some(others)}, not named as the color or depth of a frame")
    return tuple(sentences)


def _some(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in sorted(paths, key=lambda path: natural_key(path.name))[:6])
    return shown + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")


def _nothing_pairs(folder: Path, source: FolderSource) -> InputError:
    unpaired = source.unpaired
    shown = ", ".join(unpaired[:6]) + (f" and {len(unpaired) - 6} more" if len(unpaired) > 6 else "")
    return InputError(
        f"no frame in {folder}: "
        + (f"nothing pairs among {shown}" if unpaired else "it holds no file named as a frame")
        + "".join(f"; {sentence}" for sentence in source.left_out),
        "Expected STEM.color.png with STEM.depth.png (or .npy), or rgb/ and depth/ with equal stems; "
        "any other naming can be listed in a frames.json.",
    )


def _no_image(folder: Path, source: FolderSource) -> InputError:
    return InputError(
        f"no frame in {folder}: it holds no image ({', '.join(sorted(_COLOR))})"
        + "".join(f"; {sentence}" for sentence in source.left_out)
    )
