"""A folder of images as a frame source."""

from pathlib import Path

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.folder_layout import (
    COLOR,
    all_images,
    calibrations_by_frame,
    calibrations_in,
    layout_of,
    left_out,
    natural_key,
)
from cdm_export.runtimes.sources.frame_files import FrameFiles, Reading, load_frame

RIGHT_LEFT_OUT = "left out: the right images of {} pair(s): the model reads one image"
"""Said wherever pairs meet a model of one camera."""


class FolderSource:
    """Pairs ``STEM.color.*`` (or ``STEM.left.*``) with ``STEM.depth.*`` and ``STEM.right.*``; in a folder without such
    names, ``rgb/`` (``color/``, ``left/``, ``image_2/``) with ``depth/`` and ``right/`` (``image_3/``) by stem. In
    natural order: ``frame2`` before ``frame10``.

    Where depth is not needed, color without depth is a frame too, and in a folder without such names every image is.
    A calibration is found by name, unless one is given.
    """

    def __init__(self, folder: Path, reading: Reading, calibration: Path | None = None) -> None:
        """Looks at names only. Raises InputError when nothing pairs, two files claim one place, or a model that needs
        pairs finds two calibrations."""
        self._reading = reading
        pairs = reading.needs_right and not reading.side_by_side
        layout = layout_of(folder, reading.needs_depth, pairs)
        if layout.empty and reading.side_by_side and not reading.needs_depth:
            layout.color = all_images(folder)
        needed = [layout.color]
        needed += [layout.depth] if reading.needs_depth else []
        needed += [layout.right] if pairs else []
        stems = sorted(set.intersection(*(set(files) for files in needed)), key=natural_key)
        named = (layout.color, layout.depth, *([layout.right] if pairs else []))
        alone = [files[stem] for files in named for stem in files.keys() - set(stems)]
        self.unpaired = tuple(sorted((path.relative_to(folder).as_posix() for path in alone), key=natural_key))
        """Files with the name of a part of a frame whose counterpart is missing, relative to the folder."""
        parts = "left or right image" if pairs else "color or depth"
        self.left_out = (*layout.set_aside, *left_out(folder, layout.used, parts))
        if not stems:
            raise _nothing(folder, self, reading)
        unread = len(stems) if reading.side_by_side else len(layout.right.keys() & set(stems))
        if unread and not reading.needs_right:
            self.left_out += (RIGHT_LEFT_OUT.format(unread),)
        self.names = tuple(stems)
        self.description = f"folder {folder.resolve().name} ({len(stems)} frames)"
        calibrations = self._calibrations(folder, calibration)
        self._frames = [
            FrameFiles(
                layout.color[stem],
                layout.depth.get(stem),
                layout.right[stem] if pairs else None,
                calibrations.get(stem),
                found=calibration is None,
            )
            for stem in stems
        ]
        self.files = tuple(dict.fromkeys(path for frame in self._frames for path in frame.paths))

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``. Raises InputError when one of its files cannot be used."""
        return load_frame(self.names[index], self._frames[index], self._reading)

    def _calibrations(self, folder: Path, given: Path | None) -> dict[str, tuple[Path, ...]]:
        """Files of a calibration by the name of the frame."""
        if given is not None:
            return dict.fromkeys(self.names, (given,))
        subfolder, by_frame = calibrations_by_frame(folder)
        found = calibrations_in(folder)
        names = [*(" with ".join(path.name for path in paths) for paths in found), *([subfolder] if by_frame else [])]
        if len(names) > 1:
            message = f"{folder.resolve().name} holds {len(names)} calibrations: {', '.join(names)}"
            if self._reading.needs_right:
                raise InputError(message, "Say which: --calib FILE, or keep one of them.")
            self.left_out += (f"left out: all calibrations, since {message}",)
            return {}
        if by_frame:
            return {stem: (by_frame[stem],) for stem in self.names if stem in by_frame}
        return dict.fromkeys(self.names, found[0]) if found else {}


def _nothing(folder: Path, source: FolderSource, reading: Reading) -> InputError:
    unpaired, also = source.unpaired, "".join(f"; {sentence}" for sentence in source.left_out)
    shown = ", ".join(unpaired[:6]) + (f" and {len(unpaired) - 6} more" if len(unpaired) > 6 else "")
    why = f"nothing pairs among {shown}" if unpaired else "it holds no file named as a frame"
    if reading.needs_right and not reading.side_by_side:
        return InputError(
            f"no pair of images in {folder}: {why}{also}",
            "Expected STEM.left.png with STEM.right.png, or left/ and right/ (image_2/ and image_3/) with equal stems; "
            "any other naming can be listed in a frames.json. Images side by side want --side-by-side.",
        )
    if reading.needs_depth:
        return InputError(
            f"no frame in {folder}: {why}{also}",
            "Expected STEM.color.png with STEM.depth.png (or .npy), or rgb/ and depth/ with equal stems; "
            "any other naming can be listed in a frames.json.",
        )
    return InputError(f"no frame in {folder}: it holds no image ({', '.join(sorted(COLOR))}){also}")
