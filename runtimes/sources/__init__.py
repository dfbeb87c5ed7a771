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
from cdm_export.runtimes.sources.frames_json import FramesJsonSource
from cdm_export.runtimes.sources.images import load_pair, read_color, read_depth, require_scale
from cdm_export.runtimes.sources.mirror import MirroredSource
from cdm_export.runtimes.sources.sample import SampleSource, sample_truth
from cdm_export.runtimes.sources.synthetic import SyntheticSource

__all__ = [
    "DEFAULT_DEPTH_SCALE",
    "FrameSource",
    "MirroredSource",
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

_KINDS = "a folder of STEM.color.*/STEM.depth.* pairs, a frames.json, synthetic:N[:SEED], or sample"


def open_source(
    text: str,
    *,
    depth_scale: float = DEFAULT_DEPTH_SCALE,
    camera: Size | None = None,
    fit: bool = False,
    needs_depth: bool = True,
) -> FrameSource:
    """Source named by ``text``: a folder, a ``frames.json``, ``synthetic:N[:SEED]`` or ``sample``.

    ``depth_scale`` is sensor units per meter for integer depth that does not bring its own scale. With ``camera``,
    every frame has that size: synthetic frames are rendered at it, the sample is fitted to it, and files of
    another size are refused, or fitted when ``fit`` is set. Without ``needs_depth`` a folder may hold color images
    alone. Raises InputError for anything it cannot name or open; a
    single broken frame only raises when it is loaded.
    """
    require_scale(depth_scale)
    if not text:
        raise InputError("the name of the frames is empty", f"Give {_KINDS}.")
    if text == "sample":
        return AtCameraSize(SampleSource(), camera, fit=True) if camera else SampleSource()
    if text == "synthetic" or text.startswith("synthetic:"):
        return SyntheticSource.parse(text, camera)
    source = _from_files(text, depth_scale, needs_depth)
    return AtCameraSize(source, camera, fit) if camera else source


def _from_files(text: str, depth_scale: float, needs_depth: bool) -> FrameSource:
    path = Path(text).expanduser()
    if path.is_dir():
        inside = path / "frames.json"
        if inside.is_file():
            return FramesJsonSource(inside, depth_scale)
        return FolderSource(path, depth_scale, needs_depth)
    if path.is_file() and path.suffix.lower() == ".json":
        return FramesJsonSource(path, depth_scale)
    if path.exists():
        raise InputError(
            f"'{text}' is a file, not a source of frames: expected {_KINDS}",
            "For one color and depth image use --input COLOR --depth DEPTH.",
        )
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, ["synthetic:8", "sample", *siblings], n=1, cutoff=0.5)
    raise InputError(f"no frame source '{text}': expected {_KINDS}", f"Did you mean '{close[0]}'?" if close else "")
