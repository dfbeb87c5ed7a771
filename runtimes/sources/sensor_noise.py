"""What a depth camera makes of a scene: true depth in, sensor depth out.

Errors are made where such a camera makes them. ``D435``, active stereo, makes them in disparity:

* range: a constant error in disparity is an error in depth that grows with its square, RMS = z^2 * subpixel /
  (focal * baseline) (A. Grunnet-Jepsen, J. Sweetser, J. Woodfill, "Best-Known-Methods for Tuning Intel RealSense
  D400 Depth Cameras for Best Performance", Intel; C. V. Nguyen, S. Izadi, D. Lovell, "Modeling Kinect Sensor Noise for
  Improved 3D Reconstruction and Tracking", 3DIMPVT 2012, found the same growth, and 0.8 px of lateral noise);
* matching compares windows, so neighboring errors are alike, edges wobble instead of dissolving, and what is in
  front grows over its rim ("edge fattening": D. Scharstein, R. Szeliski, "A Taxonomy and Evaluation of Dense
  Two-Frame Stereo Correspondence Algorithms", IJCV 2002);
* a surface that only one of the two cameras sees has no depth: a shadow on the left of everything that stands out.

``L515``, a lidar, makes them in range: deviation 2.5 mm at 1 m and 15.5 mm at 9 m ("Intel RealSense LiDAR Camera L515
Datasheet"), and a beam that meets two surfaces reads something in between ("flying pixels": M. Hansard, S. Lee,
O. Choi, R. Horaud, "Time-of-Flight Cameras: Principles, Methods and Applications", Springer 2012).

Both lose patches, oftener far away, at edges, on dark, mirroring and grazing surfaces (H.-S. Fang et al., "TransCG",
RA-L 2022, and Q. Dai et al., "Domain Randomization-Enhanced Depth Simulation and Restoration for Perceiving and
Grasping Specular and Transparent Objects", ECCV 2022, show how much of them).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DepthCamera:
    """Error figures of a kind of depth camera."""

    name: str
    """As printed."""
    baseline: float
    """Meters between the two infrared cameras; 0 for one that is its own lamp."""
    subpixel: float
    """Pixels RMS of disparity on well-textured surfaces, at ``_FOCAL``."""
    range_noise: tuple[float, float]
    """Meters RMS at range 0, and more per meter."""
    fattening: int
    """Pixels by which what is in front may grow."""
    mixing: float
    """Share of what a neighboring pixel sees in a reading, 0..1."""
    dark: float
    """Loss of confidence on a black surface, in deviations of the dropout noise; likewise:"""
    mirroring: float
    """on a highlight,"""
    grazing: float
    """on a surface seen along itself."""


D435 = DepthCamera("D435-like", 0.05, 0.08, (0, 0), 3, 0, dark=1.0, mirroring=3.0, grazing=1.0)
L515 = DepthCamera("L515-like", 0, 0, (0.001, 0.0016), 0, 0.5, dark=2.5, mirroring=3.0, grazing=2.0)
CAMERAS = (D435, L515)

_FOCAL = 430.0  # Pixels of the D435's infrared cameras at 848x480, where its figures hold.
_STEP = 1 / 32  # Pixels; disparity comes in steps of this.
_LARGEST_DISPARITY = 126.0  # Pixels; nearer surfaces (17 cm) cannot be matched.
_NEAREST_RANGE = 0.17  # Meters, of the lidar.
_LATERAL = 0.8  # Pixels RMS by which an edge is displaced.
_EDGE = 1 / 21.5  # 1/m across a window that make a pixel an edge: one pixel of a D435's disparity.
_BLACK, _BLINDING = 0.15, 0.93  # Gray levels, 0..1, where darkness and highlights begin to matter.
_MILLIMETERS = 1000.0


def simulate_sensor(
    depth: NDArray[np.float32],
    focal: float,
    rng: np.random.Generator,
    rgb: NDArray[np.uint8] | None = None,
    camera: DepthCamera = D435,
) -> NDArray[np.uint16]:
    """Depth of such a camera, uint16 [H, W] millimeters, 0 = no reading.

    ``depth`` is the truth, float32 [H, W] meters, 0 where unknown; ``focal`` is the focal length of that image in
    pixels; ``rgb`` uint8 [H, W, 3] says what is dark and what shines. Only the generator's state decides the result.
    """
    known = depth > 0
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=known)
    readable = known.copy()
    if camera.baseline:
        readable &= ~_in_shadow(inverse * np.float32(focal * camera.baseline))
    reach = max(1, round(2 * focal / _FOCAL))  # Of the matching window, or of the beam.
    confidence = 2.6 - 0.25 * depth - camera.grazing * _grazing(inverse, focal)
    if rgb is not None:
        confidence -= _appearance_loss(rgb, camera)

    seen = _wobbling_grid(depth.shape, reach, rng)
    readable, confidence, measured = readable[seen], confidence[seen], inverse[seen]
    if camera.fattening:
        grown = cv2.dilate(measured, np.ones((2 * camera.fattening + 1,) * 2, np.uint8))
        fat = (smooth_noise(depth.shape, 3 * reach, rng) > 1) & (grown < 1.5 * measured + 0.5)
        measured = np.where(fat & known, grown, measured)
    if camera.mixing:
        other = inverse[_wobbling_grid(depth.shape, reach, rng)]
        share = np.float32(camera.mixing) * rng.random(depth.shape, dtype=np.float32)
        measured = np.where(other > 0, measured + share * (other - measured), measured)
    confidence -= np.where(_spread(measured) > _EDGE, np.float32(1.2), 0)
    readable &= smooth_noise(depth.shape, 3 * reach, rng) < confidence
    return _quantized(measured, readable, smooth_noise(depth.shape, reach, rng), camera)


def _quantized(
    inverse: NDArray[np.float32], readable: NDArray[np.bool_], noise: NDArray[np.float32], camera: DepthCamera
) -> NDArray[np.uint16]:
    """Measurement with the camera's error and in its steps, millimeters."""
    meters = np.zeros(inverse.shape, np.float64)
    if camera.baseline:
        scale = _FOCAL * camera.baseline
        steps = np.rint((inverse * np.float32(scale) + np.float32(camera.subpixel) * noise) / _STEP)
        readable = readable & (steps > 0) & (steps <= _LARGEST_DISPARITY / _STEP)
        np.divide(scale / _STEP, steps, out=meters, where=readable)
    else:
        readable = readable & (inverse > 0) & (inverse < 1 / _NEAREST_RANGE)
        np.divide(1, inverse, out=meters, where=readable)
        constant, growth = camera.range_noise
        meters = np.where(readable, np.maximum(meters + (constant + growth * meters) * noise, 0), 0)
    millimeters = meters * _MILLIMETERS
    return np.where(millimeters < 65535.5, np.rint(millimeters), 0).astype(np.uint16)


def hide_regions(depth: NDArray[np.uint16], rng: np.random.Generator, share: float) -> NDArray[np.uint16]:
    """Depth [H, W] with readings missing under random rectangles and ovals until ``share`` of them are gone.

    Real cameras lose whole things: a window, a screen, a glass, a black sofa.
    """
    left = depth.copy()
    rows, columns = depth.shape
    limit = (1 - share) * np.count_nonzero(depth)
    while np.count_nonzero(left) > limit:
        half_y, half_x = (max(1, int(rng.uniform(0.04, 0.3) * side)) for side in (rows, columns))
        y, x = int(rng.integers(rows)), int(rng.integers(columns))
        window = slice(max(y - half_y, 0), min(y + half_y, rows)), slice(max(x - half_x, 0), min(x + half_x, columns))
        if rng.random() < 0.5:
            left[window] = 0
        else:
            across, along = np.ogrid[window]
            left[window][((across - y) / half_y) ** 2 + ((along - x) / half_x) ** 2 < 1] = 0
    return left


def smooth_noise(shape: tuple[int, ...], reach: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal noise [H, W] with mean 0 and deviation 1, alike within about ``reach`` pixels (tent filter)."""
    weights = np.convolve(np.ones(reach), np.ones(reach)).astype(np.float32)
    weights /= np.sqrt(np.sum(weights**2))
    margin = len(weights) - 1
    noise = rng.standard_normal((shape[0] + margin, shape[1] + margin), dtype=np.float32)
    noise = sum((w * noise[i : i + shape[0]] for i, w in enumerate(weights)), np.zeros((), np.float32))
    return sum((w * noise[:, i : i + shape[1]] for i, w in enumerate(weights)), np.zeros((), np.float32))


def _appearance_loss(rgb: NDArray[np.uint8], camera: DepthCamera) -> NDArray[np.float32]:
    """What darkness and highlights take from the confidence, [H, W]."""
    gray = rgb.max(axis=-1).astype(np.float32) / np.float32(255)
    dark = camera.dark * np.maximum(1 - gray / np.float32(_BLACK), 0)
    shine = rgb.min(axis=-1) > np.float32(255 * _BLINDING)
    return np.asarray(dark + np.where(shine, np.float32(camera.mirroring), 0), np.float32)


def _grazing(inverse: NDArray[np.float32], focal: float) -> NDArray[np.float32]:
    """0 for surfaces up to 70 degrees off the line of sight, 1 at 80 degrees and beyond, [H, W]."""
    slope = np.zeros_like(inverse)
    slope[:, 1:-1] = np.abs(inverse[:, 2:] - inverse[:, :-2])
    slope[1:-1] = np.maximum(slope[1:-1], np.abs(inverse[2:] - inverse[:-2]))
    # d(1/z) over a pixel is tan(angle) / (z * focal).
    tangent = np.divide(slope * np.float32(focal / 2), inverse, out=np.zeros_like(inverse), where=inverse > 0)
    return np.asarray(np.clip((tangent - np.float32(2.75)) / np.float32(2.9), 0, 1))


def _in_shadow(disparity: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels of the left camera that the right one does not see, [H, W].

    Column x of the left image is column x - disparity of the right one. Anything to the right of x that lands
    at or left of that column stands in front of it; what lands left of column 0 is out of view.
    """
    landing = np.arange(disparity.shape[1], dtype=np.float32) - disparity
    leftmost = np.minimum.accumulate(landing[:, ::-1], axis=1)[:, ::-1]
    return (landing > leftmost) | (landing < 0)


def _wobbling_grid(
    shape: tuple[int, ...], reach: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns [H, W] of the pixel each pixel really measures."""

    def displaced(length: int, along: NDArray[np.intp]) -> NDArray[np.intp]:
        offset = np.rint(np.float32(_LATERAL) * smooth_noise(shape, reach, rng)).astype(np.intp)
        return np.asarray(np.clip(along + offset, 0, length - 1))

    return displaced(shape[0], np.arange(shape[0])[:, None]), displaced(shape[1], np.arange(shape[1]))


def _spread(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest change over 5 pixels along a row or a column, [H, W]; 0 at the rim."""
    spread = np.zeros_like(image)
    spread[:, 2:-2] = np.abs(image[:, 4:] - image[:, :-4])
    spread[2:-2] = np.maximum(spread[2:-2], np.abs(image[4:] - image[:-4]))
    return spread
