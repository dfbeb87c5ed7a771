"""Relative inverse depth and disparity -> meters, when somebody says how.

Relative inverse depth: between two known depths, or by a sensor's readings. Disparity: by the pair's calibration. The
network's output is the inverse of depth up to a scale and a shift that differ from image to image, so every frame
gets a scale and a shift of its own.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.arguments import check_meters, is_number
from cdm_export.runtimes.calibration import StereoCalibration
from cdm_export.runtimes.contract import DEFAULT_FAR, MOST_METERS, Semantics
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import DepthResult, Frame
from cdm_export.runtimes.processing.depth import usable

_LEAST_READINGS = 100
"""Pixels with a sensor reading below which no scale is fitted."""
_PAIRS, _JUDGES, _FITTED = 400, 4000, 50_000
"""Candidate lines through two readings each, readings that judge them, and readings that decide at last."""
_WORTH = 0.9
"""Share of the error of no scale at all that the fit may leave."""
_TUKEY = 4.685
"""Standard deviations at which Tukey's weight ends: 95 % efficient on normal errors."""
_ROUNDS = 20


class ToMeters(Protocol):
    """A way to meters."""

    @property
    def needs_depth(self) -> bool:
        """Whether it reads the frame's sensor depth."""
        ...

    def __call__(self, result: DepthResult, frame: Frame) -> DepthResult:
        """The result in meters. Raises InputError when this frame gives no scale, or the result has one already or is
        disparity."""
        ...


@dataclass(frozen=True)
class KnownRange:
    """The nearest pixel of every frame is at ``near`` and the farthest at ``far``.

    depth = 1 / (Vn (1/near - 1/far) + 1/far), Vn being the output stretched to 0..1.
    """

    near: float
    """Meters."""
    far: float
    """Meters."""

    needs_depth = False

    def __post_init__(self) -> None:
        numbers = is_number(self.near) and is_number(self.far)
        if not (numbers and 0 < self.near < self.far <= MOST_METERS):  # NaN is none of it
            raise InputError(
                f"a known range goes from near to far, above 0 and at most {MOST_METERS:.0f} meters; "
                f"got {self.near} to {self.far}",
                "For example 0.5 to 10: KnownRange(0.5, 10), on the command line --meters 0.5:10.",
            )

    def __call__(self, result: DepthResult, frame: Frame) -> DepthResult:
        """See ``ToMeters``."""
        values = _relative(result)
        low, high = float(values.min()), float(values.max())
        if not high > low:
            raise InputError("the network's output is the same everywhere: there is nothing to stretch over a range")
        scale = (1 / self.near - 1 / self.far) / (high - low)
        return _metric(result, scale, 1 / self.far - scale * low, np.inf, f"{self.near:g} to {self.far:g} m as given")


@dataclass(frozen=True)
class SensorAlignment:
    """Scale and shift that bring the output closest to the inverse of a sensor's depth, outliers set aside.

    The best of many lines through two readings (least median of errors), then Tukey's weights until they settle.
    """

    max_depth: float = 6.0
    """Meters. Sensor readings beyond this are treated as missing."""
    far: float = DEFAULT_FAR
    """Meters. Depth beyond this is invalid."""

    needs_depth = True

    def __post_init__(self) -> None:
        check_meters("max_depth", self.max_depth)
        check_meters("far", self.far)

    def __call__(self, result: DepthResult, frame: Frame) -> DepthResult:
        """See ``ToMeters``."""
        _relative(result)
        if frame.depth is None:
            raise InputError(
                "aligning to a sensor needs its depth image, and the frame has none",
                "Give it with --depth, or a known range: --meters 0.5:10.",
            )
        read = usable(frame.depth, self.max_depth) & result.valid
        if read.sum() < _LEAST_READINGS:
            raise InputError(
                f"aligning to a sensor needs {_LEAST_READINGS} readings up to {self.max_depth:g} m, "
                f"the depth image has {int(read.sum())}",
                "Check --depth-scale and --max-depth.",
            )
        given, wanted = result.values[read].astype(np.float64), 1 / frame.depth[read].astype(np.float64)
        scale, shift = fit(given, wanted)
        aligned = _metric(result, scale, shift, self.far, "")
        both = read & aligned.valid
        if not both.any():
            raise InputError(f"aligned to the sensor, no reading is nearer than {self.far:g} m")
        off = float(np.median(np.abs(aligned.values[both] / frame.depth[both] - 1)))
        return replace(aligned, scaled=f"aligned to the sensor, half of its readings within {off:.1%}")


@dataclass(frozen=True)
class CalibratedPair:
    """Disparity by the calibration that each frame brings; a frame without one keeps its pixels."""

    needs_depth = False

    def __call__(self, result: DepthResult, frame: Frame) -> DepthResult:
        """See ``ToMeters``."""
        return result if frame.stereo is None else to_meters(result, frame.stereo)


def to_meters(result: DepthResult, stereo: StereoCalibration) -> DepthResult:
    """Disparity, pixels of the left image -> meters: fx * baseline / (disparity + doffs), 0 where not valid.

    Raises InputError unless the result is disparity in pixels, at the size the calibration is for, of rectified images.
    """
    if result.semantics is not Semantics.DISPARITY or result.unit == "m":
        got = "is in meters already" if result.unit == "m" else f"is {result.semantics.value}"
        raise InputError(f"a calibration of a pair makes meters of disparity, and this result {got}")
    depth, finite = stereo.meters(result.values)
    valid = result.valid & finite
    health = replace(result.health, valid_share=float(valid.mean()))
    offset = f", principal points {stereo.doffs:.4g} px apart" if stereo.doffs else ""
    return replace(
        result,
        values=np.where(valid, depth, np.float32(0)),
        valid=valid,
        unit="m",
        scaled=f"focal length {stereo.left.fx:.5g} px, baseline {stereo.baseline:.4g} m{offset}",
        health=health,
    )


def fit(given: NDArray[np.float64], wanted: NDArray[np.float64]) -> tuple[float, float]:
    """Scale above 0 and shift with ``scale * given + shift`` near most of ``wanted``; the same in every run.

    Raises InputError when no such line is closer to them than one number for all.
    """
    rng = np.random.default_rng(0)
    kept = rng.permutation(given.size)[:_FITTED]
    given, wanted = given[kept], wanted[kept]
    judges = rng.choice(given.size, min(given.size, _JUDGES), replace=False)
    one, other = rng.integers(given.size, size=(2, _PAIRS))
    rise, run = wanted[other] - wanted[one], given[other] - given[one]
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = rise / run
    rising = np.isfinite(scales) & (scales > 0)
    scales, start = scales[rising], one[rising]
    if not scales.size:
        raise _no_scale()
    shifts = wanted[start] - scales * given[start]
    errors = np.abs(scales[:, None] * given[judges] + shifts[:, None] - wanted[judges])
    best = int(np.median(errors, axis=1).argmin())
    scale, shift = float(scales[best]), float(shifts[best])
    for _ in range(_ROUNDS):
        error = np.abs(scale * given + shift - wanted)
        reach = _TUKEY * 1.4826 * float(np.median(error))
        if reach == 0:
            break  # more than half of the readings lie on the line
        weight = np.square(1 - np.square(np.minimum(error / reach, 1)))
        mean_given, mean_wanted = np.average(given, weights=weight), np.average(wanted, weights=weight)
        variance = np.average(np.square(given - mean_given), weights=weight)
        covariance = np.average((given - mean_given) * (wanted - mean_wanted), weights=weight)
        if not (variance > 0 and covariance > 0):
            break
        scale = float(covariance / variance)
        shift = float(mean_wanted - scale * mean_given)
    left = np.median(np.abs(scale * given + shift - wanted))
    if not left <= _WORTH * np.median(np.abs(wanted - np.median(wanted))):
        raise _no_scale()
    return scale, shift


def _no_scale() -> InputError:
    return InputError(
        "no scale brings the network's output near the sensor's readings: they are at one depth, or of another scene",
        "Check that the depth image belongs to the color image, and --depth-scale.",
    )


def _relative(result: DepthResult) -> NDArray[np.float32]:
    """Valid values of a relative result that has no meters yet."""
    if result.unit == "px":
        raise InputError(
            "disparity in pixels becomes meters with a calibration (focal length in pixels, baseline in meters), which "
            "--meters does not take",
            "Leave --meters out, and give the calibration of the pair: --calib FILE.",
        )
    if result.semantics is not Semantics.RELATIVE_INVERSE_DEPTH or result.unit:
        raise InputError("this result is in meters already", "Leave --meters out.")
    if not result.valid.any():
        raise InputError("the network's output has no valid pixel")
    return result.values[result.valid]


def _metric(result: DepthResult, scale: float, shift: float, far: float, scaled: str) -> DepthResult:
    inverse = scale * result.values.astype(np.float64) + shift
    valid = result.valid & (inverse > 1 / far)
    depth = np.divide(1, inverse, out=np.zeros_like(inverse), where=valid)
    health = replace(result.health, valid_share=float(valid.mean()))
    return replace(result, values=depth.astype(np.float32), valid=valid, unit="m", scaled=scaled, health=health)
