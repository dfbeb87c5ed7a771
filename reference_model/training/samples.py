"""A clean frame -> what the network sees of it and what it should say: fresh noise and augmentation every time."""

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Processing, Size
from cdm_export.runtimes.processing.depth import inverse_nearest
from cdm_export.runtimes.processing.image import as_planes
from cdm_export.runtimes.sources.sensor_noise import CAMERAS, hide_regions, simulate_sensor
from cdm_export.runtimes.sources.synthetic import View

MAX_DEPTH = 6.0
"""Meters; readings beyond are missing, as on the device by default."""
_NEAREST, _FARTHEST = 0.2, 6.5
"""Meters between which scaled scenes stay."""


class Sample(NamedTuple):
    """Network input and target; without a batch axis."""

    image: NDArray[np.float32]
    """[3, h, w] RGB, 0..1."""
    sensor: NDArray[np.float32]
    """[1, h, w] inverse depth, 1/m, 0 = no reading."""
    target: NDArray[np.float32]
    """[1, h, w] exact inverse depth, 1/m."""


def training_sample(view: View, size: Size, rng: np.random.Generator) -> Sample:
    """One augmented sample at network size ``size``.

    The frame is cropped and mirrored; the world scaled by 0.5 to 1.5, so that only the sensor tells how far things are;
    then seen through a camera of either kind and of varying quality, and bereft of up to half of its readings.
    Resizing to the network's size is the device's.
    """
    view = _seen(view, size, rng)
    rgb, depth = view.rgb, view.depth
    low, high = max(0.5, _NEAREST / float(depth.min())), min(1.5, _FARTHEST / float(depth.max()))
    depth = depth * np.float32(rng.uniform(low, high))
    meters = sensor_depth(
        rgb, depth, view.focal, rng, float(rng.uniform(0.5, 3)), max(0, float(rng.uniform(-0.1, 0.5)))
    )
    rgb = _jittered(rgb, rng)
    return Sample(
        as_planes(rgb, size, Processing(resize="cubic", normalization="unit")),
        inverse_nearest(meters, size, MAX_DEPTH)[None],
        inverse_nearest(depth, size, 2 * _FARTHEST)[None],
    )


def sensor_depth(
    rgb: NDArray[np.uint8],
    depth: NDArray[np.float32],
    focal: float,
    rng: np.random.Generator,
    strength: float,
    hidden: float,
) -> NDArray[np.float32]:
    """Depth of a camera of either kind, meters [H, W], 0 = no reading.

    ``strength`` multiplies its error in disparity or range; ``hidden`` is the share of readings lost in regions.
    """
    camera = CAMERAS[int(rng.integers(len(CAMERAS)))]
    constant, growth = camera.range_noise
    noisy = replace(camera, subpixel=camera.subpixel * strength, range_noise=(constant * strength, growth * strength))
    raw = hide_regions(simulate_sensor(depth, focal, rng, rgb, noisy), rng, hidden)
    return raw.astype(np.float32) / np.float32(1000)


def _jittered(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colors as another camera in another light shows them."""
    image = rgb[..., rng.permutation(3)].astype(np.float32) / np.float32(255)
    image **= np.float32(rng.uniform(0.6, 1.6))
    image *= rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    gray = image.mean(axis=-1, keepdims=True)
    image = gray + np.float32(rng.uniform(0, 1.3)) * (image - gray)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2))).astype(np.float32)
    image += np.float32(rng.uniform(0, 0.03)) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.clip(255 * image, 0, 255), np.uint8)


def _seen(view: View, size: Size, rng: np.random.Generator) -> View:
    """A window of 60 to 100 % of the frame with the network's aspect, mirrored or not, at a camera's size.

    The camera has 1 to 1.6 times the network's pixels per side, as cameras have.
    """
    rows, columns = view.depth.shape
    scale = rng.uniform(0.6, 1.0) * min(rows / size.height, columns / size.width)
    height, width = round(scale * size.height), round(scale * size.width)
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    window = slice(top, top + height), slice(left, left + width)
    if rng.random() < 0.5:
        window = window[0], slice(left + width - 1, left - 1 if left else None, -1)
    finer = rng.uniform(1, 1.6)
    camera = Size(round(finer * size.width), round(finer * size.height))
    return View(
        cv2.resize(np.ascontiguousarray(view.rgb[window]), camera, interpolation=cv2.INTER_AREA).astype(np.uint8),
        cv2.resize(np.ascontiguousarray(view.depth[window]), camera, interpolation=cv2.INTER_NEAREST).astype(
            np.float32
        ),
        view.focal * camera.height / height,
    )
