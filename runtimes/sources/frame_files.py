"""The files of one frame, and the frame they make."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.calibration import Calibration, Intrinsics, StereoCalibration
from cdm_export.runtimes.calibration_files import SizeMissing, read_calibration, read_calibration_pair
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.rectification import rectifier
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.images import effective_scale, read_color, read_depth
from cdm_export.runtimes.sources.pair_images import read_eyes, split


@dataclass(frozen=True)
class FrameFiles:
    """Where the parts of a frame lie."""

    color: Path
    """Color image, or the left one of a pair."""
    depth: Path | None = None
    """Depth image that belongs to ``color``."""
    right: Path | None = None
    """Right image of a pair."""
    calibration: tuple[Path, ...] | Calibration | None = None
    """Of the camera or cameras: one file, ROS's two, or what an index holds itself."""
    found: bool = False
    """Whether ``calibration`` was only found beside the images. Without need of a pair, what is wrong with it is a note
    then, since nobody asked for it."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file."""
        calibration = self.calibration if isinstance(self.calibration, tuple) else ()
        return tuple(path for path in (self.color, self.depth, self.right, *calibration) if path is not None)


@dataclass(frozen=True)
class Reading:
    """How files become frames; the same for all of a source."""

    depth_scale: float = 1000.0
    """Sensor units per meter of integer depth that does not bring its own scale."""
    needs_depth: bool = True
    """Whether a frame without depth is of no use."""
    needs_right: bool = False
    """Whether a frame without its right image is of no use; else right images are left out, and that is said."""
    side_by_side: bool = False
    """Whether a color image is a pair: left half, right half."""
    scale_calibration: bool = False
    """Whether a calibration for another image size is scaled to the images'."""


def load_frame(name: str, files: FrameFiles, reading: Reading) -> SourceFrame:
    """One frame from its files.

    Without depth, a pair or a calibration that somebody gave, color is turned upright as a rotation in its file says.
    Raises InputError naming the frame and what is wrong.
    """
    try:
        source = _images(name, files, reading)
        return source if files.calibration is None else _calibrated(source, files, reading)
    except InputError as error:
        raise InputError(f"{name}: {error.message}", error.next_step) from error


def load_pair(name: str, color: Path, depth: Path | None, depth_scale: float) -> SourceFrame:
    """A color image and, unless None, its depth image. Raises InputError as ``load_frame`` does."""
    return load_frame(name, FrameFiles(color, depth), Reading(depth_scale))


def _images(name: str, files: FrameFiles, reading: Reading) -> SourceFrame:
    right: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()
    if reading.side_by_side:
        if files.right is not None:
            raise InputError(
                f"{files.color.name} is both images side by side, and {files.right.name} is a right image too",
                "Leave out one of the two.",
            )
        (both,), notes = read_eyes(files.color)
        rgb, right = split(files.color.name, both)
    elif files.right is not None and reading.needs_right:
        (rgb, right), notes = read_eyes(files.color, files.right)
    else:
        given = files.calibration is not None and not files.found
        rgb = read_color(files.color, upright=files.depth is None and not given)
    if reading.needs_right and right is None:
        raise InputError(f"{files.color.name} has no right image", "Give it: --right FILE, or --side-by-side.")
    if not reading.needs_right:
        right = None
    if files.depth is None:
        return SourceFrame(name, Frame(rgb, right=right), notes=notes)
    raw, meters = read_depth(files.depth, reading.depth_scale)
    return SourceFrame(
        name, Frame(rgb, depth=meters, right=right), raw, effective_scale(raw, reading.depth_scale), notes
    )


def _calibrated(source: SourceFrame, files: FrameFiles, reading: Reading) -> SourceFrame:
    """The frame with its calibration; with a note instead where nobody asked for it, and it does not fit."""
    try:
        if files.found and files.depth is None and source.frame.right is None and not reading.side_by_side:
            _refuse_turned(source, files.color)
        return _with_calibration(source, files.calibration, reading)
    except InputError as error:
        if not files.found or reading.needs_right:
            raise
        return replace(source, notes=(*source.notes, f"calibration left out: {error.message}"))


def _refuse_turned(source: SourceFrame, color: Path) -> None:
    if not np.array_equal(read_color(color), source.frame.rgb):
        raise InputError(f"{color.name} was turned upright, as its file says, and the calibration was not")


def _with_calibration(
    source: SourceFrame, given: tuple[Path, ...] | Calibration | None, reading: Reading
) -> SourceFrame:
    frame, notes = source.frame, source.notes
    calibration, name = given, "the calibration"
    if isinstance(given, tuple):
        calibration, name, assumed = _read(given, frame.size)
        notes += assumed
    assert isinstance(calibration, Intrinsics | StereoCalibration)
    if calibration.size != frame.size:
        calibration = _resized(calibration, frame.size, name, reading.scale_calibration)
        notes += (f"{name} is scaled to images of {frame.size}",)
    if isinstance(calibration, Intrinsics):
        if frame.right is not None:
            raise InputError(
                f"{name} is of one camera and has no baseline: disparity does not become meters with it",
                "Give the calibration of both cameras, or leave it out and take pixels.",
            )
        return replace(source, frame=replace(frame, intrinsics=calibration), notes=notes)
    if frame.right is None:
        return replace(source, frame=replace(frame, intrinsics=calibration.left), notes=notes)
    if calibration.rectified:
        return replace(source, frame=replace(frame, stereo=calibration), notes=notes)
    notes += (f"rectified by {name}",)
    if frame.depth is not None:
        notes += ("the depth image is left out: it belongs to the left image before it was rectified",)
    rectified = rectifier(calibration)(replace(frame, depth=None, stereo=calibration))
    return replace(source, frame=rectified, raw_depth=None, depth_scale=1.0, notes=notes)


def _read(paths: tuple[Path, ...], size: Size) -> tuple[Calibration, str, tuple[str, ...]]:
    """The calibration, its name, and a note where its size is assumed."""
    if len(paths) == 2:
        return read_calibration_pair(*paths), f"{paths[0].name} with {paths[1].name}", ()
    name = paths[0].name
    try:
        return read_calibration(paths[0]), name, ()
    except SizeMissing:
        return (
            read_calibration(paths[0], size=size),
            name,
            (f"{name} does not say the size of its images: taken to be that of the frames, {size}",),
        )


def _resized(calibration: Calibration, size: Size, name: str, scale: bool) -> Calibration:
    """Scaled to ``size``, if that was asked for and the images can have been resized as a whole."""
    own = calibration.size
    if not scale:
        raise InputError(
            f"{name} is for images of {own}, the images are {size}",
            "If they were resized as a whole, pass --scale-calibration; cropped ones need a calibration of their own.",
        )
    if abs(own.width * size.height - own.height * size.width) > max(own):
        raise InputError(
            f"{name} is for images of {own}, the images are {size}: of another aspect, so that they were cropped",
            "Give the calibration of the images as they are.",
        )
    return calibration.scaled(size)
