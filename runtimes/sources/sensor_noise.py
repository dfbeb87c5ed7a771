"""What an active stereo camera makes of a scene: true depth in, sensor depth out.

Errors are made where such a camera makes them, in disparity, with figures like those of an Intel RealSense D435:

* range: a constant error in disparity is an error in depth that grows with its square, RMS = z^2 * subpixel /
  (focal * baseline) (A. Grunnet-Jepsen, J. Sweetser, J. Woodfill, "Best-Known-Methods for Tuning Intel RealSense
  D400 Depth Cameras for Best Performance", Intel; C. V. Nguyen, S. Izadi, D. Lovell, "Modeling Kinect Sensor Noise for
  Improved 3D Reconstruction and Tracking", 3DIMPVT 2012, found the same growth, and 0.8 px of lateral noise);
* matching compares windows, so neighbouring errors are alike, and edges wobble instead of dissolving;
* a surface that only one of the two cameras sees has no depth: a shadow on the left of everything that stands out;
* matching fails in patches, oftener far away and at edges.
"""

import numpy as np
from numpy.typing import NDArray

BASELINE = 0.05
"""Metres between the two infrared cameras."""

_FOCAL = 430.0  # Pixels of the infrared cameras at 848x480, where the figures below hold.
_SUBPIXEL = 0.08  # Pixels RMS on well-textured surfaces.
_STEP = 1 / 32  # Pixels; disparity comes in steps of this.
_LARGEST_DISPARITY = 126.0  # Pixels; nearer surfaces (17 cm) cannot be matched.
_LATERAL = 0.8  # Pixels RMS by which an edge is displaced.
_EDGE = 1.0  # Pixels of disparity across a window that make a pixel an edge.
_MILLIMETRES = 1000.0


def simulate_sensor(depth: NDArray[np.float32], focal: float, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Depth of an active stereo camera, uint16 [H, W] millimetres, 0 = no reading.

    ``depth`` is the truth, float32 [H, W] metres, 0 where unknown; ``focal`` is the focal length of that image in
    pixels. Only the generator's state decides the result.
    """
    known = depth > 0
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=known)
    readable = known & ~_in_shadow(inverse * np.float32(focal * BASELINE))

    rows, columns = _wobbling_grid(depth.shape, rng)
    disparity = inverse[rows, columns] * np.float32(_FOCAL * BASELINE)
    readable = readable[rows, columns] & (disparity <= _LARGEST_DISPARITY)
    confidence = 2.6 - 0.25 * depth[rows, columns] - np.where(_spread(disparity) > _EDGE, np.float32(1.2), 0)
    readable &= smooth_noise(depth.shape, 6, rng) < confidence

    measured = disparity + np.float32(_SUBPIXEL) * smooth_noise(depth.shape, 2, rng)
    steps = np.rint(measured / _STEP)
    readable &= steps > 0
    millimetres = np.zeros(depth.shape, np.float64)
    np.divide(_FOCAL * BASELINE * _MILLIMETRES / _STEP, steps, out=millimetres, where=readable)
    return np.where(millimetres < 65535.5, np.rint(millimetres), 0).astype(np.uint16)


def smooth_noise(shape: tuple[int, ...], reach: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal noise [H, W] with mean 0 and deviation 1, alike within about ``reach`` pixels (tent filter)."""
    weights = np.convolve(np.ones(reach), np.ones(reach)).astype(np.float32)
    weights /= np.sqrt(np.sum(weights**2))
    margin = len(weights) - 1
    noise = rng.standard_normal((shape[0] + margin, shape[1] + margin), dtype=np.float32)
    noise = sum((w * noise[i : i + shape[0]] for i, w in enumerate(weights)), np.zeros((), np.float32))
    return sum((w * noise[:, i : i + shape[1]] for i, w in enumerate(weights)), np.zeros((), np.float32))


def _in_shadow(disparity: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels of the left camera that the right one does not see, [H, W].

    Column x of the left image is column x - disparity of the right one. Anything to the right of x that lands
    at or left of that column stands in front of it; what lands left of column 0 is out of view.
    """
    landing = np.arange(disparity.shape[1], dtype=np.float32) - disparity
    leftmost = np.minimum.accumulate(landing[:, ::-1], axis=1)[:, ::-1]
    return (landing > leftmost) | (landing < 0)


def _wobbling_grid(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns [H, W] of the pixel each pixel really measures."""

    def displaced(length: int, along: NDArray[np.intp]) -> NDArray[np.intp]:
        offset = np.rint(np.float32(_LATERAL) * smooth_noise(shape, 2, rng)).astype(np.intp)
        return np.asarray(np.clip(along + offset, 0, length - 1))

    return displaced(shape[0], np.arange(shape[0])[:, None]), displaced(shape[1], np.arange(shape[1]))


def _spread(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest change over 5 pixels along a row or a column, [H, W]; 0 at the rim."""
    spread = np.zeros_like(image)
    spread[:, 2:-2] = np.abs(image[:, 4:] - image[:, :-4])
    spread[2:-2] = np.maximum(spread[2:-2], np.abs(image[4:] - image[:-4]))
    return spread
