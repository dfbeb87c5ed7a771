"""Where frames come from: one way for run, verify, export and calibration.

``open_source(text)`` turns what a user typed into a ``FrameSource``; ``frames(source)`` walks through it.
"""

import difflib
from pathlib import Path

from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.base import FrameSource, SourceFrame, frames
from cdm_export.runtimes.sources.depth_check import check_depth, dropped_note, require_readings
from cdm_export.runtimes.sources.fit import AtCameraSize, fit_frame
from cdm_export.runtimes.sources.folder import FolderSource
from cdm_export.runtimes.sources.frame_files import FrameFiles, Reading, load_pair
from cdm_export.runtimes.sources.frames_json import FramesJsonSource
from cdm_export.runtimes.sources.images import read_color, read_depth, require_scale
from cdm_export.runtimes.sources.mirror import MirroredSource
from cdm_export.runtimes.sources.sample import SampleSource, sample_truth
from cdm_export.runtimes.sources.synthetic import SyntheticSource

__all__ = [
    "DEFAULT_DEPTH_SCALE",
    "FrameFiles",
    "FrameSource",
    "MirroredSource",
    "Reading",
    "SourceFrame",
    "check_depth",
    "dropped_note",
    "fit_frame",
    "frames",
    "load_pair",
    "open_source",
    "read_color",
    "read_depth",
    "require_readings",
    "sample_truth",
]

DEFAULT_DEPTH_SCALE = 1000.0
"""Sensor units per meter when nobody says: millimeters."""

_KINDS = (
    "a folder of STEM.color.*/STEM.depth.* or STEM.left.*/STEM.right.* pairs, a frames.json, synthetic:N[:SEED], or "
    "sample"
)


def open_source(
    text: str,
    *,
    depth_scale: float = DEFAULT_DEPTH_SCALE,
    camera: Size | None = None,
    fit: bool = False,
    needs_depth: bool = True,
    needs_right: bool = False,
    side_by_side: bool = False,
    calibration: Path | None = None,
    scale_calibration: bool = False,
) -> FrameSource:
    """Source named by ``text``: a folder, a ``frames.json``, ``synthetic:N[:SEED]`` or ``sample``.

    ``depth_scale`` is sensor units per meter for integer depth that does not bring its own scale. With ``camera``,
    every frame has that size: synthetic frames are rendered at it, the sample is fitted to it, and files of
    another size are refused, or fitted when ``fit`` is set. Without ``needs_depth`` a folder may hold color images
    alone; with ``needs_right`` frames are stereo pairs, and without it right images are left out, which ``left_out``
    says. ``side_by_side``: every color image is a pair, left half and right half. ``calibration``: a file for all
    frames, instead of those that are found or listed; one for another image size is scaled with ``scale_calibration``.
    Raises InputError for anything it cannot name or open; a single broken frame only raises when it is loaded.
    """
    require_scale(depth_scale)
    if not text:
        raise InputError("the name of the frames is empty", f"Give {_KINDS}.")
    if text == "sample" or text == "synthetic" or text.startswith("synthetic:"):
        if side_by_side or calibration is not None:
            what = "--side-by-side" if side_by_side else "--calib"
            raise InputError(f"{text} brings its own images and calibration: {what} has no meaning", "Leave it out.")
        if text != "sample":
            return SyntheticSource.parse(text, camera, needs_right)
        sample = SampleSource(needs_right)
        return AtCameraSize(sample, camera, fit=True) if camera else sample
    source = _from_files(
        text, Reading(depth_scale, needs_depth, needs_right, side_by_side, scale_calibration), calibration
    )
    return AtCameraSize(source, camera, fit) if camera else source


def _from_files(text: str, reading: Reading, calibration: Path | None) -> FrameSource:
    path = Path(text).expanduser()
    if path.is_dir():
        inside = path / "frames.json"
        if inside.is_file():
            return FramesJsonSource(inside, reading, calibration)
        return FolderSource(path, reading, calibration)
    if path.is_file() and path.suffix.lower() == ".json":
        return FramesJsonSource(path, reading, calibration)
    if path.exists():
        raise InputError(
            f"'{text}' is a file, not a source of frames: expected {_KINDS}",
            "For one color and depth image use --input COLOR --depth DEPTH.",
        )
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, ["synthetic:8", "sample", *siblings], n=1, cutoff=0.5)
    raise InputError(f"no frame source '{text}': expected {_KINDS}", f"Did you mean '{close[0]}'?" if close else "")
