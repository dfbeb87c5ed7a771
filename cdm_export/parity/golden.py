"""Reference frames on disk: the raw frame, the network's inputs, and what the reference made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdm_export.progress import Progress
from cdm_export.publish import record
from cdm_export.runtimes.bundle import Golden
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import postprocess, preprocess
from cdm_export.runtimes.sources import FrameSource, SourceFrame, require_readings

Arrays: TypeAlias = dict[str, NDArray[Any]]

_KEPT = 4
"""Reference frames that stay in a bundle."""


@dataclass(frozen=True)
class ReferenceFrame:
    """Where a reference frame lies."""

    name: str
    """Name of the frame in its source."""
    path: Path
    """npz, see ``save_frame`` and ``save_output``."""


def prepare_frames(
    source: FrameSource, contract: ModelContract, folder: Path, progress: Progress
) -> list[ReferenceFrame]:
    """Every frame of a source with its network inputs; the reference's outputs are added where the reference runs.

    Where the model reads depth, a suspicious depth scale becomes a warning. Raises InputError for a frame that cannot
    be used, or none of whose readings is in range.
    """
    progress.stage(f"preparing {len(source)} frame(s)", len(source))
    folder.mkdir()
    for note in (*(f"{unpaired} has no partner and is left out" for unpaired in source.unpaired), *source.left_out):
        progress.note(note)
    frames = []
    said: set[str] = set()
    for index, name in enumerate(source.names):
        frame = source.load(index)
        for note in frame.notes:
            if note not in said:
                progress.note(note)
        said.update(frame.notes)
        for warning in require_readings(frame, contract.max_depth) if contract.reads("depth") else ():
            progress.warn(warning)
        path = folder / f"{index:03d}.npz"
        save_frame(path, frame, preprocess(frame.frame, contract))
        frames.append(ReferenceFrame(name, path))
        progress.step()
    return frames


def save_frame(path: Path, source: SourceFrame, inputs: Arrays) -> None:
    """Write ``rgb, right, depth_scale, raw_depth`` and the network inputs by name; the reference's part comes later.

    ``right`` and ``raw_depth`` only where the frame has them. No network input may have one of these names.
    """
    arrays: Arrays = {"rgb": source.frame.rgb, "depth_scale": np.array(source.depth_scale, np.float64), **inputs}
    if source.raw_depth is not None:
        arrays["raw_depth"] = source.raw_depth
    if source.frame.right is not None:
        arrays["right"] = source.frame.right
    save_arrays(path, arrays)


def save_output(
    path: Path,
    frame: Path,
    contract: ModelContract,
    raw_output: NDArray[np.float32],
    rounded: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> None:
    """Write to ``path`` what ``frame`` holds plus ``raw_output``, and the ``depth`` and ``valid`` it means.

    ``depth`` is meters, or the output as it is where that has no unit. ``rounded``: outputs of the same network for
    inputs that were rounded to ``fp16`` or ``bf16``; only for weights that amplify rounding (``compare.py``).
    """
    depth, valid = postprocess(raw_output, contract)
    arrays = {**load_reference(frame), "raw_output": raw_output, "depth": depth, "valid": valid}
    save_arrays(path, {**arrays, **{f"rounded_{precision}": output for precision, output in rounded.items()}})


def golden_records(root: Path, frames: list[ReferenceFrame], least: int = 1) -> tuple[Golden, ...]:
    """The frames under ``root`` that stay in a bundle, for its manifest: the first ones, at least ``least``; all are
    verified.
    """
    kept = frames[: max(_KEPT, least)]
    return tuple(Golden(name=frame.name, file=record(root, frame.path)) for frame in kept)


def load_reference(path: Path) -> Arrays:
    """All arrays of a reference frame; pickled objects are refused."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def raw_frame(arrays: Arrays) -> Frame:
    """The camera frame of a reference frame, depth in meters; without its time of capture, which is not stored."""
    raw = arrays.get("raw_depth")
    depth = None if raw is None else raw.astype(np.float32) / np.float32(arrays["depth_scale"])
    return Frame(rgb=arrays["rgb"], depth=depth, right=arrays.get("right"))


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write a reference frame's arrays by name."""
    with naming(path), path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
