"""A ray-caster of boxes, ellipsoids and cylinders: color and exact depth, in numpy.

Camera axes: x right, y down, z forward; lengths in meters. Rays have z = 1, so the ray parameter of a hit *is* its
depth along the optical axis. Only elementwise arithmetic and square roots, which IEEE 754 fixes to the bit: no BLAS, no
transcendental function over an array, whose last bit depends on the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Size

Vector = tuple[float, float, float]
Plane = NDArray[Any]
"""[H, W] or flat float32."""


@dataclass(frozen=True)
class Solid:
    """A box, an ellipsoid or a cylinder along its own y axis. Seen from within, a box is a room."""

    center: Vector
    """World meters."""
    half: Vector
    """Half extents along its own axes, meters."""
    colors: tuple[Vector, Vector]
    """Linear RGB 0..1 between which the texture varies."""
    pattern: str = "mottled"
    """``plain``, ``mottled``, ``checker``, ``stripes`` or ``patches``."""
    cell: float = 0.1
    """Size of a texture cell, meters."""
    axes: NDArray[np.float64] | None = None
    """[3, 3] rotation from its own axes to the world's; None for none."""
    shape: Literal["box", "ellipsoid", "cylinder"] = "box"
    """What ``half`` are the half extents of."""
    gloss: float = 0.0
    """Strength of the lamp's mirror image, 0..1."""


class Camera(NamedTuple):
    """A pinhole at the world's origin with its principal point in the image's middle."""

    size: Size
    focal: float
    axes: NDArray[np.float64]

    def window(self, solid: Solid) -> tuple[slice, slice]:
        """Rows and columns of the image outside which no ray meets the solid."""
        half = np.array(solid.half)
        corners = np.array([half * signs for signs in product((-1, 1), repeat=3)])
        world = np.array(solid.center) + (corners if solid.axes is None else corners @ solid.axes.T)
        x, y, z = (world @ self.axes).T
        if z.min() < 0.01:  # Beside or around the camera.
            return slice(None), slice(None)

        def span(across: NDArray[np.float64], length: int) -> slice:
            pixels = across / z * self.focal + length / 2
            return slice(max(int(pixels.min()) - 1, 0), max(int(pixels.max()) + 2, 0))

        return span(y, self.size.height), span(x, self.size.width)

    def rays(self) -> list[Plane]:
        """World x, y, z of the ray through every pixel center, [H, W] each."""
        x = (np.arange(self.size.width) + 0.5 - self.size.width / 2) / self.focal
        y = ((np.arange(self.size.height) + 0.5 - self.size.height / 2) / self.focal)[:, None]
        return [(row[0] * x + row[1] * y + row[2]).astype(np.float32) for row in self.axes]


def render(
    solids: Sequence[Solid], camera: Camera, light: Vector, ambient: float = 0.22
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """RGB uint8 [H, W, 3] and depth float32 [H, W] meters, 0 where a ray hits nothing.

    ``light`` is the lamp's place in world meters, ``ambient`` the brightness of what it does not reach.
    """
    rays = camera.rays()
    depth = np.full(rays[0].shape, np.inf, np.float32)
    nearest = np.full(rays[0].shape, -1, np.int16)
    for index, solid in enumerate(solids):
        window = camera.window(solid)
        eye = _own_axes(solid, [np.float32(-c) for c in solid.center])
        hit = _hit(solid, eye, _own_axes(solid, [ray[window] for ray in rays]))
        closer = hit < depth[window]
        depth[window][closer] = hit[closer]
        nearest[window][closer] = index
    points = [ray * np.where(np.isinf(depth), np.float32(0), depth) for ray in rays]
    shadow = _shadow(solids, points, light)
    rgb = np.zeros((*depth.shape, 3), np.float32)
    for index, solid in enumerate(solids):
        seen = nearest == index
        if seen.any():
            rgb[seen] = _shade(
                solid, [ray[seen] for ray in rays], [p[seen] for p in points], shadow[seen], light, ambient
            )
    # Square root stands in for the display gamma, 2.2.
    encoded = np.rint(255 * np.sqrt(np.clip(rgb, 0, 1))).astype(np.uint8)
    return encoded, np.where(np.isinf(depth), np.float32(0), depth)


def _shadow(solids: Sequence[Solid], points: list[Plane], light: Vector) -> NDArray[np.bool_]:
    """Points [H, W] from which some solid hides the lamp."""
    towards = [np.float32(q) - p for q, p in zip(light, points, strict=True)]
    hidden = np.zeros(points[0].shape, bool)
    for solid in solids:
        if any(abs(c - q) > 4 for c, q in zip(solid.center, light, strict=True)):
            continue
        start = _own_axes(solid, [p - np.float32(c) for p, c in zip(points, solid.center, strict=True)])
        hit = _hit(solid, start, _own_axes(solid, towards))
        hidden |= (hit > 0.01) & (hit < 0.99)  # Less is the surface itself, 1 is the lamp.
    return hidden


def _own_axes(solid: Solid, vector: Sequence[Any]) -> list[Any]:
    """World vector -> the solid's axes."""
    if solid.axes is None:
        return list(vector)
    return [sum(np.float32(solid.axes[i, j]) * vector[i] for i in range(3)) for j in range(3)]


def _hit(solid: Solid, eye: list[Any], rays: list[Plane]) -> Plane:
    """Ray parameter of the first hit in front of ``eye``, infinity where there is none; all along the solid's axes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = _CROSSINGS[solid.shape](eye, rays, solid.half)
        hit = np.where(near > 0, near, far)
        return np.where((near <= far) & (far > 0), hit, np.float32(np.inf))


def _cross_box(eye: list[Any], rays: list[Plane], half: Sequence[float]) -> tuple[Plane, Plane]:
    """Depths of entry and exit: the last of the three slabs entered, the first one left."""
    near: Any = np.float32(-np.inf)
    far: Any = np.float32(np.inf)
    for start, ray, extent in zip(eye, rays, half, strict=True):
        one, other = (-np.float32(extent) - start) / ray, (np.float32(extent) - start) / ray
        near = np.fmax(near, np.fmin(one, other))
        far = np.fmin(far, np.fmax(one, other))
    return near, far


def _cross_ellipsoid(eye: list[Any], rays: list[Plane], half: Sequence[float]) -> tuple[Plane, Plane]:
    """Roots of |(eye + t ray) / half| = 1; NaN where the ray passes by, which compares as a miss."""
    scaled = [(start / np.float32(h), ray / np.float32(h)) for start, ray, h in zip(eye, rays, half, strict=True)]
    a = sum(ray * ray for _, ray in scaled)
    b = sum(start * ray for start, ray in scaled)
    c = sum(start * start for start, _ in scaled) - 1
    root = np.sqrt(b * b - a * c)
    return (-b - root) / a, (-b + root) / a


def _cross_cylinder(eye: list[Any], rays: list[Plane], half: Sequence[float]) -> tuple[Plane, Plane]:
    """Inside the ellipse of x and z, and inside the slab of y."""
    near, far = _cross_ellipsoid(eye[::2], rays[::2], half[::2])
    bottom, top = _cross_box(eye[1:2], rays[1:2], half[1:2])
    return np.maximum(near, bottom), np.minimum(far, top)  # A miss of either, NaN, stays one.


_CROSSINGS = {"box": _cross_box, "ellipsoid": _cross_ellipsoid, "cylinder": _cross_cylinder}


def _normal(solid: Solid, own: list[Plane]) -> list[Plane]:
    """Outward normals of surface points, not of unit length."""
    relative = [p / np.float32(h) for p, h in zip(own, solid.half, strict=True)]
    round_part = [p / np.float32(h) for p, h in zip(relative, solid.half, strict=True)]
    if solid.shape == "ellipsoid":
        return round_part
    if solid.shape == "cylinder":
        cap = relative[0] ** 2 + relative[2] ** 2 < np.abs(relative[1])
        flat = [np.zeros_like(own[0]), np.sign(relative[1]), np.zeros_like(own[0])]
        side = [round_part[0], flat[0], round_part[2]]
        return [np.where(cap, f, s) for f, s in zip(flat, side, strict=True)]
    face = np.argmax(np.abs(np.stack(relative)), axis=0)
    return [np.where(face == axis, np.sign(relative[axis]), 0).astype(np.float32) for axis in range(3)]


def _shade(
    solid: Solid, rays: list[Plane], points: list[Plane], shadow: NDArray[np.bool_], light: Vector, ambient: float
) -> Plane:
    """Textured points, linear RGB [N, 3]: ambient, a lamp that fades with distance, and its mirror image (Phong)."""
    own = _own_axes(solid, [p - np.float32(c) for p, c in zip(points, solid.center, strict=True)])
    normal = _normal(solid, own)
    view = _own_axes(solid, rays)
    lamp = _own_axes(solid, [np.float32(q) - p for q, p in zip(light, points, strict=True)])
    distance2, length2 = _dot(lamp, lamp), _dot(normal, normal)
    # A face is lit when lamp and eye are on the same side of it.
    towards = -np.sign(_dot(normal, view)) * _dot(normal, lamp)
    lit = np.where(shadow, np.float32(0), np.maximum(towards / np.sqrt(length2 * distance2), 0))
    brightness = ambient + 1.1 * lit / (1 + 0.12 * distance2)
    blend = _texture(solid, own)[:, None]
    first, second = (np.array(color, np.float32) for color in solid.colors)
    rgb = (first + (second - first) * blend) * brightness[:, None]
    if solid.gloss:
        mirrored = [v - 2 * _dot(normal, view) / length2 * n for v, n in zip(view, normal, strict=True)]
        along = np.maximum(_dot(mirrored, lamp) / np.sqrt(_dot(view, view) * distance2), 0)
        peak = along * along  # To the 16th power, by multiplication.
        for _ in range(3):
            peak = peak * peak
        rgb = rgb + (np.float32(solid.gloss) * np.where(lit > 0, peak, 0))[:, None]
    return np.asarray(rgb, np.float32)


def _dot(one: list[Any], other: list[Any]) -> Any:
    return sum(p * q for p, q in zip(one, other, strict=True))


def _texture(solid: Solid, own: list[Plane]) -> Plane:
    """Solid texture 0..1: the pattern, with some mottling over it so that no surface is without features."""
    grain = [p / np.float32(solid.cell) for p in own]
    mottled = 0.65 * _value_noise(grain) + 0.35 * _value_noise([4 * p for p in grain])
    if solid.pattern == "mottled":
        return np.asarray(mottled)
    if solid.pattern == "plain":
        return np.asarray(0.15 * mottled)
    if solid.pattern == "patches":
        cells = [np.floor(p + np.float32(0.497)).astype(np.int32).astype(np.uint32) for p in grain]
        return np.asarray(0.85 * _hash(cells) + 0.15 * mottled)
    # Half a cell off, so that faces through the origin of an axis do not fall on a interface.
    axes = grain if solid.pattern == "checker" else grain[:1]
    parity = sum(np.floor(p + np.float32(0.497)) for p in axes) % 2
    return np.asarray(0.75 * parity + 0.25 * mottled)


def _value_noise(points: list[Plane]) -> Plane:
    """Smooth noise 0..1 in three dimensions: random values on the integer lattice, blended between."""
    cells = [np.floor(p) for p in points]
    inside = [p - c for p, c in zip(points, cells, strict=True)]
    eased = [t * t * (3 - 2 * t) for t in inside]
    lattice = [c.astype(np.int32).astype(np.uint32) for c in cells]
    total: Any = np.float32(0)
    for corner in range(8):
        steps = [corner >> axis & 1 for axis in range(3)]
        weight = np.float32(1)
        for step, t in zip(steps, eased, strict=True):
            weight = weight * (t if step else 1 - t)
        total = total + weight * _hash([q + np.uint32(step) for q, step in zip(lattice, steps, strict=True)])
    return np.asarray(total)


def _hash(lattice: list[NDArray[np.uint32]]) -> Plane:
    """A value 0..1 for every lattice point: multiply by large odd numbers, mix high bits into low ones."""
    x, y, z = lattice
    mixed = x * np.uint32(0x9E3779B1) ^ y * np.uint32(0x85EBCA77) ^ z * np.uint32(0xC2B2AE3D)
    mixed = (mixed ^ mixed >> np.uint32(15)) * np.uint32(0x2C1B3C6D)
    mixed = (mixed ^ mixed >> np.uint32(12)) * np.uint32(0x297A2D39)
    return np.asarray((mixed >> np.uint32(8)).astype(np.float32) * np.float32(2**-24))
