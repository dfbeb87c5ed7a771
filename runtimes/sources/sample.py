"""One real scene that needs no download: the Middlebury 2014 "Motorcycle" pair in scikit-image's wheel.

Its ground truth is too good for a sensor, so the depth is passed through ``sensor_noise``: a real image, real
geometry, and depth as a camera would have measured it, with the truth at hand.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.calibration import Intrinsics, StereoCalibration
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.install import install
from cdm_export.runtimes.sources.base import SourceFrame
from cdm_export.runtimes.sources.fit import fit_nearest
from cdm_export.runtimes.sources.sensor_noise import simulate_sensor

# Calibration of the quarter-size images, from the docstring of skimage.data.stereo_motorcycle.
_FOCAL = 994.978  # Pixels.
_PRINCIPAL_POINT = (311.193, 254.877)  # Pixels, of the left image.
_BASELINE = 0.193001  # Meters.
_DOFFS = 31.086  # Pixels between the principal points of the two images.
_SEED = 2014
_MILLIMETERS = 1000.0


class SampleSource:
    """The one frame, 741x500: with depth, uint16 millimeters of a simulated depth camera; or as a pair, with its right
    image and its calibration. The same in every run."""

    names = ("motorcycle",)
    unpaired: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __init__(self, pair: bool = False) -> None:
        self._pair = pair
        self.description = f"sample (Middlebury 2014 Motorcycle, {'stereo pair' if pair else 'simulated depth camera'})"

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> SourceFrame:
        """The frame. Raises InputError when scikit-image is not installed."""
        rgb, right, truth = _scene()
        if self._pair:
            return SourceFrame(self.names[index], Frame(rgb, right=right, stereo=_calibration(Size.of(rgb))))
        raw = simulate_sensor(truth, _FOCAL, np.random.default_rng(_SEED))
        meters = raw.astype(np.float32) / np.float32(_MILLIMETERS)
        return SourceFrame(self.names[index], Frame(rgb, depth=meters), raw, _MILLIMETERS)


def sample_truth(camera: Size | None = None) -> NDArray[np.float32]:
    """True depth of the sample, float32 [H, W] meters (2.1 to 5.0), 0 where the benchmark has none (7 %).

    With ``camera`` it is cropped and sampled as the frame is. Raises InputError when scikit-image is not installed.
    """
    truth = _scene()[2]
    return truth if camera is None else fit_nearest(truth, camera)


def _calibration(size: Size) -> StereoCalibration:
    left = Intrinsics(_FOCAL, _FOCAL, *_PRINCIPAL_POINT, *size)
    return StereoCalibration(left, replace(left, cx=left.cx + _DOFFS), baseline=_BASELINE)


def _scene() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Left and right image, uint8 [500, 741, 3], and true depth of the left one, float32 [500, 741] meters."""
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise InputError(
            f"the sample frame comes with scikit-image, which is not installed ({error})",
            f"{install('export')}, or use synthetic:1 instead.",
        ) from error
    load: Any = stereo_motorcycle  # Has no type hints.
    left, right, disparity = load()
    known = np.isfinite(disparity)
    depth = np.zeros(disparity.shape, np.float32)
    depth[known] = _FOCAL * _BASELINE / (disparity[known] + _DOFFS)
    left, right = (np.ascontiguousarray(image[..., :3], np.uint8) for image in (left, right))
    return left, right, depth
