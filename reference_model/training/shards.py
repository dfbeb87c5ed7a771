"""Clean rendered frames on disk, so that an epoch costs reading, not rendering.

Frames come from the frame source ``synthetic`` itself. In numpy it renders 32 frames of 384x288 a second on two cores,
several times what those can train on, and every frame is used again with other noise; a second generator in
PyTorch would have bought nothing. Stored before any noise: color as uint8, depth as uint16 tenths of a millimeter.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.synthetic import SyntheticSource, View

FRAMES_PER_SHARD = 64
_UNITS_PER_METER = np.float32(10000)


def shard_folder(folder: Path, seed: int, size: Size) -> Path:
    """Where the frames of one seed and size lie."""
    return folder / f"rooms-{seed}-{size}"


def render_shards(
    folder: Path, count: int, seed: int, size: Size, processes: int, done: Callable[[int], None] = lambda frames: None
) -> None:
    """Render frames 0 to ``count`` (rounded up to whole shards) of ``seed``; shards that exist are kept.

    A shard appears whole or not at all. ``done`` is told the frames of every shard that is there.
    """
    target = shard_folder(folder, seed, size)
    target.mkdir(parents=True, exist_ok=True)
    shards = range(-(-count // FRAMES_PER_SHARD))
    missing = [index for index in shards if not _path(target, index).exists()]
    done(FRAMES_PER_SHARD * (len(shards) - len(missing)))
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(_render, [(target, index, seed, size) for index in missing]):
            done(FRAMES_PER_SHARD)


def _path(target: Path, index: int) -> Path:
    return target / f"shard-{index:05d}"


def _render(job: tuple[Path, int, int, Size]) -> None:
    target, index, seed, size = job
    first = index * FRAMES_PER_SHARD
    source = SyntheticSource(first + FRAMES_PER_SHARD, seed, size)
    views = [source.view(frame) for frame in range(first, first + FRAMES_PER_SHARD)]
    unfinished = target / f".{_path(target, index).name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    np.save(unfinished / "rgb.npy", np.stack([view.rgb for view in views]))
    depth = np.stack([view.depth for view in views])
    np.save(unfinished / "depth.npy", np.rint(depth * _UNITS_PER_METER).astype(np.uint16))
    np.save(unfinished / "focal.npy", np.array([view.focal for view in views]))
    unfinished.rename(_path(target, index))


class Shards:
    """Frames of one seed and size, memory-mapped."""

    def __init__(self, folder: Path, seed: int, size: Size) -> None:
        target = shard_folder(folder, seed, size)
        paths = sorted(target.glob("shard-*"))
        if not paths:
            raise InputError(
                f"{target} holds no shards", "Make them: python -m cdm_export.reference_model.training render"
            )
        self._rgb = [_mapped(path / "rgb.npy") for path in paths]
        self._depth = [_mapped(path / "depth.npy") for path in paths]
        self._focal = [_mapped(path / "focal.npy") for path in paths]

    def __len__(self) -> int:
        return FRAMES_PER_SHARD * len(self._rgb)

    def __getitem__(self, index: int) -> View:
        """Clean frame ``index``; IndexError beyond the last."""
        shard, place = divmod(index, FRAMES_PER_SHARD)
        depth = self._depth[shard][place].astype(np.float32) / _UNITS_PER_METER
        return View(np.array(self._rgb[shard][place]), depth, float(self._focal[shard][place]))


def _mapped(path: Path) -> NDArray[np.generic]:
    mapped: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
