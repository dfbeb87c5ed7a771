"""Rendered rooms as a frame source: no files, any size, and the truth is known."""

import math
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtimes.contract import Size
from runtimes.errors import InputError, did_you_mean
from runtimes.frame import Frame
from runtimes.sources.base import SourceFrame
from runtimes.sources.raycast import Camera, Solid, Vector, render
from runtimes.sources.sensor_noise import simulate_sensor

DEFAULT_SIZE = Size(640, 480)
"""Size when no camera is given."""

_MILLIMETRES = 1000.0
_TABLE_HEIGHT = 0.75  # Metres.


class SyntheticSource:
    """A room, a table with things on it, thin poles: 0.5 to 5.3 m away, through the noise of a depth camera.

    Frame ``i`` of a seed is the same whatever the number of frames and their order, and on every machine up to the
    rounding of its libm (a level of colour or a step of depth in a few pixels).
    """

    unpaired: tuple[str, ...] = ()

    def __init__(self, count: int, seed: int = 0, size: Size = DEFAULT_SIZE) -> None:
        self.names = tuple(f"synthetic-{seed}-{index:04d}" for index in range(count))
        self.description = f"synthetic:{count}:{seed} at {size}"
        self._seed, self._size = seed, size

    @classmethod
    def parse(cls, text: str, camera: Size | None = None) -> "SyntheticSource":
        """``synthetic:N[:SEED]`` at camera size. Raises InputError for anything else."""
        match = re.fullmatch(r"synthetic:(\d{1,5})(?::(\d{1,9}))?", text)
        if not match or int(match[1]) == 0:
            raise InputError(
                f"'{text}' is not a synthetic source: expected synthetic:N or synthetic:N:SEED with N from 1 to 99999",
                did_you_mean(text, ["synthetic:8", "synthetic:8:1"]),
            )
        return cls(int(match[1]), int(match[2] or 0), camera or DEFAULT_SIZE)

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``: RGB with a little shot noise, depth uint16 millimetres with holes."""
        view = self._view(index)
        noise = view.rng.integers(-3, 4, view.rgb.shape, dtype=np.int16)
        rgb = np.clip(view.rgb + noise, 0, 255).astype(np.uint8)
        raw = simulate_sensor(view.depth, view.focal, view.rng)
        metres = raw.astype(np.float32) / np.float32(_MILLIMETRES)
        return SourceFrame(self.names[index], Frame(rgb, metres), raw, _MILLIMETRES)

    def truth(self, index: int) -> NDArray[np.float32]:
        """Exact depth of frame ``names[index]``, float32 [H, W] metres; every pixel has one."""
        return self._view(index).depth

    def _view(self, index: int) -> "_View":
        rng = np.random.default_rng([self._seed, index])
        focal = 0.6 * max(self._size)  # 80 degrees along the longer side, as depth cameras have.
        height = rng.uniform(1.15, 1.35)
        target = rng.uniform(0.95, 1.65)  # Metres in front, on the table.
        pitch = math.atan2(height - _TABLE_HEIGHT, target) * rng.uniform(0.7, 1.0)
        axes = rotation(rng.uniform(-0.2, 0.2), pitch, 0.0)
        solids = _room(rng, height) + _table(rng, height, target) + _rods(rng, height)
        light = (rng.uniform(-1.2, 1.2), height - 2.3, rng.uniform(0.2, 1.6))
        rgb, depth = render(solids, Camera(self._size, focal, axes), light)
        return _View(rgb, depth, focal, rng)


class _View(NamedTuple):
    """A clean frame, and the generator that goes on to make its noise."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    focal: float
    rng: np.random.Generator


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """[3, 3] turn by ``roll`` about z, then ``pitch`` about x (positive looks down), then ``yaw`` about y; radians."""
    (sy, cy), (sp, cp), (sr, cr) = ((math.sin(a), math.cos(a)) for a in (yaw, pitch, roll))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    bank = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(turn @ tilt @ bank)


def _colors(rng: np.random.Generator, lightest: float) -> tuple[Vector, Vector]:
    """A colour up to ``lightest``, and a darker relative of it; half-way to grey, as most things are."""
    first = (0.5 * rng.uniform(0.1, 1, 3) + 0.5 * rng.uniform(0.1, 1)) * lightest
    second = first * rng.uniform(0.25, 0.6) * rng.uniform(0.7, 1.3, 3)
    return _vector(first), _vector(second)


def _vector(values: NDArray[np.float64]) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _room(rng: np.random.Generator, height: float) -> list[Solid]:
    """Walls and ceiling, floor, furniture by the walls. The camera is ``height`` above the floor; y points down.

    No corner is farther than 6 m from the camera, so no depth is.
    """
    width, back = rng.uniform(1.6, 2.2), rng.uniform(3.2, 5.0)
    wall = float(rng.uniform(0.55, 0.8))
    paint = (wall, wall * float(rng.uniform(0.9, 1.0)), wall * float(rng.uniform(0.75, 1.0)))
    shell = Solid(
        (0, height - 1.3, (back - 0.8) / 2),
        (width, 1.4, (back + 0.8) / 2),
        (paint, _vector(np.array(paint) * 0.8)),
        cell=0.4,
    )
    pattern = str(rng.choice(["checker", "stripes"]))
    floor = Solid((0, height + 0.05, 2), (4, 0.05, 4), _colors(rng, 0.6), pattern, cell=rng.uniform(0.12, 0.4))
    solids = [shell, floor]
    for side in (-1, 1):
        half = rng.uniform((0.2, 0.3, 0.2), (0.4, 0.85, 0.4))
        place = (side * (width - half[0]), height - half[1], back - half[2] - rng.uniform(0, 0.8))
        pattern = str(rng.choice(["mottled", "stripes"]))
        solids.append(Solid(place, _vector(half), _colors(rng, 0.7), pattern, cell=rng.uniform(0.06, 0.2)))
    return solids


def _table(rng: np.random.Generator, height: float, target: float) -> list[Solid]:
    """A table ``target`` metres in front, turned a little, with a thing in each of six places."""
    axes = rotation(rng.uniform(-0.5, 0.5), 0, 0)
    half_x, half_z = rng.uniform(0.5, 0.7), rng.uniform(0.32, 0.42)
    top = height - _TABLE_HEIGHT
    middle = np.array([rng.uniform(-0.15, 0.15), top, target])

    def place(x: float, below_top: float, z: float) -> Vector:
        return _vector(middle + axes @ np.array([x, below_top, z]))

    wood = _colors(rng, 0.6)
    solids = [Solid(place(0, 0.02, 0), (half_x, 0.02, half_z), wood, "stripes", cell=0.09, axes=axes)]
    for right, back in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        leg = place(right * (half_x - 0.05), _TABLE_HEIGHT / 2 + 0.02, back * (half_z - 0.05))
        solids.append(Solid(leg, (0.025, _TABLE_HEIGHT / 2 - 0.02, 0.025), wood, axes=axes))
    for slot in range(6):
        x = (slot % 3 - 1) * half_x * 0.62 + rng.uniform(-0.06, 0.06)
        z = (slot // 3 - 0.5) * half_z + rng.uniform(-0.04, 0.04)
        half, pattern, is_round = _thing(rng)
        turned = axes @ rotation(rng.uniform(-1.5, 1.5), 0, 0)
        colors = _colors(rng, 1.0)
        solids.append(
            Solid(place(x, -half[1], z), half, colors, pattern, rng.uniform(0.03, 0.07), turned, round=is_round)
        )
    return solids


def _thing(rng: np.random.Generator) -> tuple[Vector, str, bool]:
    """Half extents, pattern and roundness of something that stands on a table."""
    kind, size, slim = rng.integers(4), rng.uniform(0.06, 0.12), rng.uniform(0.5, 0.9)
    pattern = str(rng.choice(["mottled", "checker", "stripes"]))
    if kind == 0:
        return (size, size, size), pattern, True
    if kind == 1:
        return (size * slim, size * 1.6, size * slim), pattern, True
    if kind == 2:
        return (size, size * slim, size * slim), pattern, False
    return (0.008, size * 2.4, 0.008), "mottled", False


def _rods(rng: np.random.Generator, height: float) -> list[Solid]:
    """Thin poles from the floor, leaning: what resizing and matching lose first."""
    solids = []
    for side in (-1, 1):
        length, radius = rng.uniform(0.6, 0.9), rng.uniform(0.006, 0.016)
        axes = rotation(0, rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15))
        place = (side * rng.uniform(0.75, 1.3), height - length, rng.uniform(1.7, 2.6))
        solids.append(Solid(place, (radius, length, radius), _colors(rng, 0.9), axes=axes))
    return solids
