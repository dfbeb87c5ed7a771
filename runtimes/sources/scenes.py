"""Rooms, tables and close-ups of things, at random: what a robot's depth camera looks at.

The camera is the origin of the world; x right, y down, z forward along the floor; meters. Everything is decided by
the generator it is given. Nothing is nearer than 0.2 m or farther than 6 m along the optical axis.
"""

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.sources.raycast import Solid, Vector

_TABLE_HEIGHT = 0.75
_CLEARANCE = 0.32
"""Meters kept free around the camera: 0.2 m along the axis in the corner of the widest image."""

Pattern = Literal["plain", "mottled", "checker", "stripes", "patches"]
_PATTERNS: tuple[Pattern, ...] = ("plain", "mottled", "checker", "stripes", "patches")


class Scene(NamedTuple):
    """What ``raycast.render`` needs."""

    solids: list[Solid]
    axes: NDArray[np.float64]
    """[3, 3] rotation from the camera's axes to the world's."""
    light: Vector
    """Place of the lamp."""
    ambient: float
    """Brightness of what the lamp does not reach."""

    def moved(self, by: NDArray[np.float64]) -> "Scene":
        """With everything moved by [3] meters of the world: what a camera sees that moved the other way."""
        solids = [replace(solid, center=_vector(np.array(solid.center) + by)) for solid in self.solids]
        return self._replace(solids=solids, light=_vector(np.array(self.light) + by))


def random_scene(rng: np.random.Generator) -> Scene:
    """A close-up of a table (0.3 to 0.8 m), a table in a room (1 to 2 m), or a room (up to 6 m)."""
    kind = rng.choice(["close-up", "table", "room"], p=[0.3, 0.4, 0.3])
    if kind == "close-up":
        height, distance = _TABLE_HEIGHT + rng.uniform(0.33, 0.75), rng.uniform(0.1, 0.7)
        things, looks_down, turn = int(rng.integers(5, 15)), rng.uniform(0.8, 1.05), 0.1
    elif kind == "table":
        height, distance = rng.uniform(1.1, 1.5), rng.uniform(0.8, 2.0)
        things, looks_down, turn = int(rng.integers(4, 11)), rng.uniform(0.6, 1.1), 0.3
    else:
        height, distance = rng.uniform(0.5, 1.7), rng.uniform(1.8, 3.2)
        things, looks_down, turn = int(rng.integers(0, 7)), rng.uniform(-0.3, 0.9), 0.6
    pitch = math.atan2(height - _TABLE_HEIGHT, distance) * looks_down
    solids = _room(rng, height)
    if things:
        solids += _table(rng, height, distance, things)
    kept = [solid for solid in solids[2:] if _distance(solid) > _CLEARANCE]
    light = (rng.uniform(-1.2, 1.2), height - rng.uniform(1.9, 2.3), rng.uniform(-0.2, 2.2))
    axes = rotation(rng.uniform(-turn, turn), pitch, rng.normal(0, 0.06))
    return Scene(solids[:2] + kept, axes, light, rng.uniform(0.12, 0.45))


def _distance(solid: Solid) -> float:
    """Meters from the camera to the box around the solid, 0 inside it."""
    center = np.array(solid.center)
    own = np.abs(center if solid.axes is None else solid.axes.T @ center)
    return float(np.linalg.norm(np.maximum(own - np.array(solid.half), 0)))


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """[3, 3] turn by ``roll`` about z, then ``pitch`` about x (positive looks down), then ``yaw`` about y; radians."""
    (sy, cy), (sp, cp), (sr, cr) = ((math.sin(a), math.cos(a)) for a in (yaw, pitch, roll))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    bank = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(turn @ tilt @ bank)


def _colors(rng: np.random.Generator, lightest: float) -> tuple[Vector, Vector]:
    """A color up to ``lightest``, and another of the same hue or, one time in three, of none like it."""
    first, other = ((0.5 * rng.uniform(0.03, 1, 3) + 0.5 * rng.uniform(0.03, 1)) * lightest for _ in range(2))
    relative = first * rng.uniform(0.25, 0.8) * rng.uniform(0.7, 1.3, 3)
    return _vector(first), _vector(other if rng.random() < 0.33 else relative)


def _vector(values: Any) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _pattern(rng: np.random.Generator) -> Pattern:
    return _PATTERNS[int(rng.integers(len(_PATTERNS)))]


def _gloss(rng: np.random.Generator) -> float:
    """Two things in five shine."""
    return float(rng.uniform(0.2, 1.0)) if rng.random() < 0.4 else 0.0


def _room(rng: np.random.Generator, height: float) -> list[Solid]:
    """Walls and ceiling; floor; then furniture, pictures and poles. The camera is ``height`` above the floor."""
    width, back = rng.uniform(1.4, 2.6), rng.uniform(2.2, 4.9)
    wall = float(rng.uniform(0.3, 0.85))
    paint = (wall, wall * float(rng.uniform(0.8, 1.0)), wall * float(rng.uniform(0.65, 1.0)))
    shell = Solid(
        (0, height - 1.3, (back - 0.8) / 2),
        (width, 1.4, (back + 0.8) / 2),
        (paint, _vector(np.array(paint) * rng.uniform(0.75, 0.95))),
        pattern=("plain", "mottled", "stripes")[int(rng.integers(3))],
        cell=rng.uniform(0.1, 0.6),
    )
    floor = Solid(
        (0, height + 0.05, 2), (4, 0.05, 4), _colors(rng, 0.7), _pattern(rng), rng.uniform(0.08, 0.5), gloss=_gloss(rng)
    )
    solids = [shell, floor]
    for _ in range(int(rng.integers(2, 7))):  # By the walls and in the room.
        half = rng.uniform((0.15, 0.2, 0.15), (0.5, 0.95, 0.45))
        side = rng.choice([-1, 1]) * (width - half[0] - abs(rng.normal(0, 0.25)))
        place = (side, height - half[1], rng.uniform(1.2, max(back - half[2], 1.3)))
        axes = rotation(rng.normal(0, 0.25), 0, 0)
        solids.append(
            Solid(
                place, _vector(half), _colors(rng, 0.8), _pattern(rng), rng.uniform(0.05, 0.25), axes, gloss=_gloss(rng)
            )
        )
    for _ in range(int(rng.integers(0, 4))):  # On the back wall.
        place = (rng.uniform(-width, width), height - rng.uniform(0.9, 1.9), back)
        frame = (rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.4), rng.uniform(0.01, 0.04))
        solids.append(Solid(place, frame, _colors(rng, 0.9), _pattern(rng), rng.uniform(0.05, 0.2), gloss=_gloss(rng)))
    for _ in range(int(rng.integers(1, 5))):  # What resizing and matching lose first.
        length, radius = rng.uniform(0.4, 0.9), rng.uniform(0.006, 0.02)
        axes = rotation(0, rng.normal(0, 0.15), rng.normal(0, 0.15))
        place = (rng.choice([-1, 1]) * rng.uniform(0.2, 1.3), height - length, rng.uniform(1.0, 2.8))
        solids.append(Solid(place, (radius, length, radius), _colors(rng, 0.9), axes=axes, shape="cylinder"))
    return solids


def _table(rng: np.random.Generator, height: float, target: float, things: int) -> list[Solid]:
    """A table ``target`` meters in front, turned a little, with things strewn over it."""
    axes = rotation(rng.uniform(-0.5, 0.5), 0, 0)
    half_x, half_z = rng.uniform(0.45, 0.8), rng.uniform(0.3, 0.5)
    middle = np.array([rng.uniform(-0.15, 0.15), height - _TABLE_HEIGHT, target])

    def place(x: float, below_top: float, z: float) -> Vector:
        return _vector(middle + axes @ np.array([x, below_top, z]))

    top = (half_x, 0.02, half_z)
    wood = _colors(rng, 0.8)
    board = Solid(place(0, 0.02, 0), top, wood, _pattern(rng), rng.uniform(0.03, 0.2), axes, gloss=_gloss(rng))
    solids = [board]
    for right, back in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        leg = place(right * (half_x - 0.05), _TABLE_HEIGHT / 2 + 0.02, back * (half_z - 0.05))
        solids.append(Solid(leg, (0.025, _TABLE_HEIGHT / 2 - 0.02, 0.025), wood, axes=axes))
    for _ in range(things):
        x, z = rng.uniform(-0.9, 0.9) * half_x, rng.uniform(-0.9, 0.9) * half_z
        half, shape = _thing(rng)
        turned = axes @ rotation(rng.uniform(-1.5, 1.5), 0, 0)
        cell, gloss = rng.uniform(0.01, 0.08), _gloss(rng)
        solids.append(Solid(place(x, -half[1], z), half, _colors(rng, 1.0), _pattern(rng), cell, turned, shape, gloss))
    return solids


def _thing(rng: np.random.Generator) -> tuple[Vector, Literal["box", "ellipsoid", "cylinder"]]:
    """Half extents and shape of something that stands on a table."""
    kind, size, slim = rng.integers(6), rng.uniform(0.025, 0.11), rng.uniform(0.4, 0.9)
    if kind == 0:
        return (size, size, size), "ellipsoid"
    if kind == 1:
        return (size * slim, size * 1.5, size * slim), "cylinder"  # A bottle, a can.
    if kind == 2:
        return (size, size * 0.3, size), "cylinder"  # A plate.
    if kind == 3:
        radius = rng.uniform(0.004, 0.01)
        return (radius, rng.uniform(0.06, 0.2), radius), "cylinder"  # A rod.
    return (size, size * slim, size * rng.uniform(0.3, 1.2)), "box"
