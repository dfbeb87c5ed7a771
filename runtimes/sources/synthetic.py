"""Rendered rooms as a frame source: no files, any size, and the truth is known."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.calibration import Intrinsics, StereoCalibration
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError, did_you_mean
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.raycast import Camera, render
from cdm_export.runtimes.sources.scenes import random_scene
from cdm_export.runtimes.sources.sensor_noise import simulate_sensor

DEFAULT_SIZE = Size(640, 480)
"""Size when no camera is given."""

_MILLIMETERS = 1000.0
_BASELINE = 0.06
"""Meters between the cameras of a pair."""
_TINY = 1000
"""Pixels below which an image may be of one surface."""
_NOISE = 1
"""Tells the generator of a frame's noise from that of its scene."""


class SyntheticSource:
    """Rooms, tables, close-ups of things and thin poles, 0.2 to 6 m away, through the noise of a depth camera.

    Frame ``i`` of a seed is the same whatever the number of frames and their order, and on every machine up to the
    rounding of its libm (a level of color or a step of depth in a few pixels).
    """

    unpaired: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __init__(self, count: int, seed: int = 0, size: Size = DEFAULT_SIZE, pairs: bool = False) -> None:
        """``pairs``: frames are stereo pairs with their calibration, 60 mm apart, and have no depth."""
        self.names = tuple(f"synthetic-{seed}-{index:04d}" for index in range(count))
        self.description = f"synthetic:{count}:{seed} at {size}" + (", stereo pairs" if pairs else "")
        self._seed, self._size, self._pairs = seed, size, pairs

    @classmethod
    def parse(cls, text: str, camera: Size | None = None, pairs: bool = False) -> "SyntheticSource":
        """``synthetic:N[:SEED]`` at camera size. Raises InputError for anything else."""
        match = re.fullmatch(r"synthetic:(\d{1,5})(?::(\d{1,9}))?", text)
        if not match or int(match[1]) == 0:
            raise InputError(
                f"'{text}' is not a synthetic source: expected synthetic:N or synthetic:N:SEED with N from 1 to 99999",
                did_you_mean(text, ["synthetic:8", "synthetic:8:1"]),
            )
        return cls(int(match[1]), int(match[2] or 0), camera or DEFAULT_SIZE, pairs)

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``: RGB with a little shot noise, and uint16 millimeters with holes or a right image."""
        view = self.view(index)
        rng = np.random.default_rng([self._seed, index, _NOISE])
        rgb = _shot(rng, view.rgb)
        if self._pairs:
            right = _shot(rng, self.view(index, _BASELINE).rgb)
            return SourceFrame(self.names[index], Frame(rgb, right=right, stereo=self._calibration(view.focal)))
        raw = simulate_sensor(view.depth, view.focal, rng, view.rgb)
        meters = raw.astype(np.float32) / np.float32(_MILLIMETERS)
        return SourceFrame(self.names[index], Frame(rgb, depth=meters), raw, _MILLIMETERS)

    def truth(self, index: int) -> NDArray[np.float32]:
        """Exact depth of frame ``names[index]``, float32 [H, W] meters; every pixel has one."""
        return self.view(index).depth

    def _calibration(self, focal: float) -> StereoCalibration:
        width, height = self._size
        camera = Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)
        return StereoCalibration(camera, camera, baseline=_BASELINE)

    def view(self, index: int, beside: float = 0.0) -> "View":
        """Frame ``names[index]`` before any noise, seen from ``beside`` meters to the right."""
        rng = np.random.default_rng([self._seed, index])
        focal = rng.uniform(0.58, 0.85) * max(self._size)  # 61 to 82 degrees along the longer side.
        while True:
            scene = random_scene(rng)
            rgb, depth = render(scene.solids, Camera(self._size, focal, scene.axes), scene.light, scene.ambient)
            if depth.max() > 1.5 * depth.min() or depth.size < _TINY:  # One in 300 shows nothing but a flat surface.
                break
        if beside:
            moved = scene.moved(-beside * scene.axes[:, 0])
            rgb, depth = render(moved.solids, Camera(self._size, focal, scene.axes), moved.light, scene.ambient)
        return View(rgb, depth, focal)


def _shot(rng: np.random.Generator, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With the noise of few photons."""
    noise = rng.integers(-3, 4, rgb.shape, dtype=np.int16)
    return np.asarray(np.clip(rgb + noise, 0, 255), np.uint8)


class View(NamedTuple):
    """A clean frame."""

    rgb: NDArray[np.uint8]
    """[H, W, 3]."""
    depth: NDArray[np.float32]
    """[H, W] meters, exact; every pixel has one."""
    focal: float
    """Pixels."""
