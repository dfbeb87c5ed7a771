"""Stereo data sets in the layouts they are published in."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.evaluate.data.base import Item
from cdm_export.evaluate.data.folder import DISPARITY_SCALE
from cdm_export.evaluate.protocols import STEREO_PROTOCOLS
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources import Reading, read_depth
from cdm_export.runtimes.sources.decode import decode
from cdm_export.runtimes.sources.files import read_bytes
from cdm_export.runtimes.sources.frame_files import FrameFiles, load_frame
from cdm_export.runtimes.sources.npy import load_npy

_PAIR = Reading(needs_depth=False, needs_right=True)
_TARTANAIR_FOCAL_BASELINE = 320.0 * 0.25
"""Pixels times meters."""


class KittiStereo2015:
    """``training/image_2``, ``image_3`` and ``disp_occ_0`` or ``disp_noc_0``; ``path`` is the folder of ``training``,
    or that itself. The second images of the pairs, ``_11``, have no truth."""

    def __init__(self, path: Path, truth: str) -> None:
        self.protocol = STEREO_PROTOCOLS[f"kitti-stereo-2015-{truth}"]
        root = path / "training" if (path / "training").is_dir() else path
        self._folders = [_folder(root, name) for name in ("image_2", "image_3", f"disp_{truth}_0")]
        self.names = tuple(sorted(file.stem for file in self._folders[2].glob("*_10.png")))
        _some(self.names, self._folders[2], "*_10.png")
        self.files = tuple(_file(folder, f"{name}.png") for name in self.names for folder in self._folders)
        self.description = f"KITTI stereo 2015, {truth} ({len(self.names)} pairs)"

    def load(self, index: int) -> Item:
        """See ``DataSet``."""
        left, right, truth = self.files[3 * index : 3 * index + 3]
        frame = load_frame(self.names[index], FrameFiles(left, None, right), _PAIR)
        return Item(frame, read_depth(truth, DISPARITY_SCALE)[1])


class TartanAir:
    """Trajectories, folders with ``image_left``, ``image_right`` and ``depth_left``, ``path`` itself or below it."""

    def __init__(self, path: Path) -> None:
        self.protocol = STEREO_PROTOCOLS["tartanair"]
        trajectories = sorted(found.parent for found in path.glob("**/depth_left") if found.is_dir())
        if not trajectories:
            raise InputError(f"{path} has no folder depth_left, nor has any below it", "It comes with depth_left.zip.")
        self._files: list[tuple[Path, Path, Path]] = []
        names = []
        for trajectory in trajectories:
            left, right, depth = (_folder(trajectory, name) for name in ("image_left", "image_right", "depth_left"))
            for truth in sorted(depth.glob("*_left_depth.npy")):
                stem = truth.name.removesuffix("_left_depth.npy")
                self._files.append((_file(left, f"{stem}_left.png"), _file(right, f"{stem}_right.png"), truth))
                names.append("-".join((*trajectory.relative_to(path).parts, stem)))
        self.names = tuple(names)
        _some(self.names, path, "depth_left/*_left_depth.npy")
        self.files = tuple(file for files in self._files for file in files)
        self.description = f"TartanAir ({len(names)} pairs)"

    def load(self, index: int) -> Item:
        """See ``DataSet``."""
        left, right, truth = self._files[index]
        frame = load_frame(self.names[index], FrameFiles(left, None, right), _PAIR)
        depth = load_npy(truth).astype(np.float64)
        with np.errstate(divide="ignore"):
            disparity = np.where(depth > 0, _TARTANAIR_FOCAL_BASELINE / depth, 0)
        return Item(frame, disparity.astype(np.float32))


class Middlebury:
    """Scenes, folders with ``im0.png``, ``im1.png`` and ``disp0GT.pfm`` (version 3) or ``disp0.pfm`` (2014), and
    ``mask0nocc.png`` where there is one; ``path`` is a scene or holds scenes."""

    def __init__(self, path: Path) -> None:
        self.protocol = STEREO_PROTOCOLS["middlebury"]
        scenes = sorted({found.parent for found in path.glob("**/im0.png")})
        if not scenes:
            raise InputError(f"{path} has no im0.png, nor has any folder below it")
        self.names = tuple("-".join(scene.relative_to(path).parts) or scene.resolve().name for scene in scenes)
        self._files = [(_file(scene, "im0.png"), _file(scene, "im1.png"), _middlebury_truth(scene)) for scene in scenes]
        self.files = tuple(file for files in self._files for file in files)
        self.description = f"Middlebury ({len(scenes)} pairs)"

    def load(self, index: int) -> Item:
        """See ``DataSet``."""
        left, right, truth = self._files[index]
        frame = load_frame(self.names[index], FrameFiles(left, None, right), _PAIR)
        mask = left.parent / "mask0nocc.png"
        visible = decode(mask, cv2.IMREAD_GRAYSCALE) == 255 if mask.is_file() else None
        return Item(frame, read_pfm(truth), visible)


def read_pfm(path: Path) -> NDArray[np.float32]:
    """Float image of one channel, [H, W] in rows from the top; the size of the scale line is ignored, as Middlebury
    says: only its sign, the order of bytes, means something. Raises InputError for anything else."""
    words = read_bytes(path).split(maxsplit=3)
    try:
        kind, width, height = words[0], int(words[1]), int(words[2])
        line, _, data = words[3].partition(b"\n")
        order = "<" if float(line) < 0 else ">"
    except (IndexError, ValueError):
        raise InputError(f"{path.name} is no PFM: its first three lines do not say so") from None
    if kind != b"Pf" or not (0 < width <= 1 << 15 and 0 < height <= 1 << 15):
        raise InputError(f"{path.name} is no PFM of one channel: it begins with {kind[:8]!r}, {width}x{height}")
    if len(data) != 4 * width * height:
        raise InputError(f"{path.name} holds {len(data)} bytes of pixels, expected {4 * width * height}: it is damaged")
    rows: NDArray[Any] = np.frombuffer(data, f"{order}f4").reshape(height, width)[::-1]
    return rows.astype(np.float32)


def _middlebury_truth(scene: Path) -> Path:
    found = [scene / name for name in ("disp0GT.pfm", "disp0.pfm") if (scene / name).is_file()]
    if not found:
        raise InputError(f"{scene} has neither disp0GT.pfm nor disp0.pfm: there is no truth for the left image")
    return found[0]


def _folder(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        raise InputError(f"{root} has no folder {name}")
    return root / name


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise InputError(f"{folder} has no {name}")
    return folder / name


def _some(names: tuple[str, ...], folder: Path, pattern: str) -> None:
    if not names:
        raise InputError(f"{folder} has no {pattern}: there is no truth in it")
