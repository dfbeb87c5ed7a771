"""Pictures a person can judge: depth in color with a bar in meters, and where two depths differ.

What has no unit gets a bar without meters.
"""

from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.predict.drawing import Rgb, bar, blank_bar, captioned, color, grid, titled
from cdm_export.runtimes.contract import ErrorClass

_LEAST_HEIGHT = 120
"""Pixels; smaller frames are enlarged in pictures."""
P = TypeVar("P", bound=np.generic)
COLORS = {
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
    "plasma": cv2.COLORMAP_PLASMA,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "turbo": cv2.COLORMAP_TURBO,
    "gray": None,
}
"""Color maps by name, for what a picture shows; differences are always in viridis."""
DEFAULT_COLORS = "inferno"
_RELATIVE = "relative inverse depth, no unit"
_DISPARITY = "disparity"


def depth_limits(*depths: NDArray[np.float32]) -> tuple[float, float]:
    """Common color range of several depth images: 2nd to 98th percentile of their readings, meters."""
    readings = np.concatenate([depth[np.isfinite(depth) & (depth > 0)] for depth in depths])
    if readings.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(readings, (2, 98)))
    return low, max(high, low + 1e-3)


def color_depth(depth: NDArray[np.float32], limits: tuple[float, float], colors: str = DEFAULT_COLORS) -> Rgb:
    """[H, W] meters -> RGB, near is bright; no reading is hatched."""
    low, high = limits
    scaled = np.clip((np.nan_to_num(depth) - low) / (high - low), 0, 1)
    return color(1 - scaled, COLORS[colors], ~(np.isfinite(depth) & (depth > 0)))


def color_relative(values: NDArray[np.float32], limits: tuple[float, float], colors: str = DEFAULT_COLORS) -> Rgb:
    """[H, W] relative inverse depth -> RGB, near is bright."""
    low, high = limits
    scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    return color(scaled, COLORS[colors], ~np.isfinite(values))


def color_difference(difference: NDArray[np.float64], known: NDArray[np.bool_], limit: float) -> Rgb:
    """[H, W] difference, 0..limit -> RGB; unknown is hatched."""
    return color(np.clip(difference / limit, 0, 1), cv2.COLORMAP_VIRIDIS, ~known)


def relative_difference(
    depth: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """``|depth - reference| / reference`` and where both have a reading."""
    known = np.isfinite(reference) & (reference > 0) & np.isfinite(depth) & (depth > 0)
    difference = np.zeros(depth.shape, np.float64)
    np.divide(np.abs(depth.astype(np.float64) - reference), reference, out=difference, where=known)
    return difference, known


def relative_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """Color range of relative inverse depth: 2nd to 98th percentile, in its own numbers."""
    finite = values[np.isfinite(values)]
    low, high = (float(value) for value in np.percentile(finite, (2, 98))) if finite.size else (0.0, 1.0)
    return low, high if high > low else low + 1


def refinement_picture(
    rgb: Rgb,
    sensor: NDArray[np.float32],
    refined: NDArray[np.float32],
    caption: str,
    warning: str = "",
    *,
    word: str = "refined",
    colors: str = DEFAULT_COLORS,
    limits: tuple[float, float] | None = None,
) -> Rgb:
    """2x2: color, sensor depth, refined depth, relative difference on sensor pixels; bars in meters and percent.

    ``word``: what the second depth is called. ``limits``: meters at the ends of the bar, for pictures that are to be
    compared; None for those of the frame.
    """
    rgb, sensor, refined = _large_enough(rgb), _large_enough(sensor), _large_enough(refined)
    limits = limits or depth_limits(sensor, refined)
    difference, known = relative_difference(refined, sensor)
    missing = not _read(sensor).all() or not _read(refined).all()  # one width for the bars of a column
    percent = bar(rgb.shape[0], cv2.COLORMAP_VIRIDIS, ["0 %", "10 %", "20 %"], hatched=missing)
    seen, made = (_in_meters(depth, limits, colors, missing) for depth in (sensor, refined))
    percent = _as_wide(percent, seen.bar)
    tiles = [
        [titled(rgb, blank_bar(made.bar), "color"), titled(*seen, "sensor depth")],
        [
            titled(*made, f"{word} depth"),
            titled(color_difference(difference, known, 0.2), percent, f"|{word} - sensor| / sensor"),
        ],
    ]
    return captioned(grid(tiles), caption, warning)


def prediction_picture(
    rgb: Rgb,
    values: NDArray[np.float32],
    unit: str,
    caption: str,
    warning: str = "",
    *,
    colors: str = DEFAULT_COLORS,
    limits: tuple[float, float] | None = None,
) -> Rgb:
    """Color beside depth, with a bar in meters, beside disparity, with one in pixels, or beside relative inverse depth,
    with a bar without a unit.

    ``unit``: of the values, as in ``DepthResult``. ``limits``: values at the ends of the bar, for pictures that are to
    be compared; None for those of the frame.
    """
    rgb, values = _large_enough(rgb), _large_enough(values)
    if unit == "m":
        shown, title = _in_meters(values, limits or depth_limits(values), colors), "predicted depth"
    elif unit == "px":
        shown, title = _in_pixels(values, limits or depth_limits(values), colors), _DISPARITY
    else:
        shown, title = _without_unit(values, limits or relative_limits(values), colors), _RELATIVE
    tiles = [[titled(rgb, blank_bar(shown.bar), "color"), titled(*shown, title)]]
    return captioned(grid(tiles), caption, warning)


def error_picture(
    rgb: Rgb,
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    limit: float,
    caption: str,
    *,
    error_class: ErrorClass = ErrorClass.RELATIVE,
    unit: float = 1.0,
) -> Rgb:
    """Heat map of the error beside its frame; the bar ends at ``limit`` (the gate's p99).

    The error is relative to the reference's depth; of another ``error_class`` it is in units of ``unit``: the range of
    the output, or a pixel of the network's image in those of the camera's.
    """
    rgb, reference, candidate = _large_enough(rgb), _large_enough(reference), _large_enough(candidate)
    if error_class is ErrorClass.RELATIVE:
        difference, known = relative_difference(candidate, reference)
        shown = _in_meters(reference, depth_limits(reference), DEFAULT_COLORS)
        title = f"relative error against PyTorch: {_mean(difference, known)}{_mean_mm(reference, candidate, known)}"
    else:
        known = np.isfinite(reference) & np.isfinite(candidate) & (unit > 0)
        difference = np.zeros(reference.shape, np.float64)
        np.divide(np.abs(candidate.astype(np.float64) - reference), unit, out=difference, where=known)
        if error_class is ErrorClass.PIXELS:
            shown = _in_pixels(reference, depth_limits(reference), DEFAULT_COLORS)
            title = f"error in pixels, against PyTorch: {_mean(difference, known)}"
        else:
            shown = _without_unit(reference, relative_limits(reference), DEFAULT_COLORS)
            title = f"error / range, against PyTorch: {_mean(difference, known)}"
    labels = ["0", f"{limit / 2:g}", f"{limit:g}"]
    error_bar = bar(rgb.shape[0], cv2.COLORMAP_VIRIDIS, labels, hatched=not known.all())
    tiles = [
        [
            titled(rgb, blank_bar(shown.bar), "color"),
            titled(*shown, "PyTorch"),
            titled(color_difference(difference, known, limit), error_bar, title),
        ]
    ]
    return captioned(grid(tiles), caption, "")


def _mean(difference: NDArray[np.float64], known: NDArray[np.bool_]) -> str:
    return f"mean {difference[known].mean():.1e}" if known.any() else "nothing comparable"


def _mean_mm(reference: NDArray[np.float32], candidate: NDArray[np.float32], known: NDArray[np.bool_]) -> str:
    """`` (0.0013 mm)``; empty where nothing is comparable."""
    if not known.any():
        return ""
    return f" ({1e3 * np.abs(candidate[known].astype(np.float64) - reference[known]).mean():.2g} mm)"


def _read(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.isfinite(depth) & (depth > 0)


def _large_enough(image: NDArray[P]) -> NDArray[P]:
    """Whole-pixel enlargement of very small frames, so that bar and titles have room."""
    times = -(-_LEAST_HEIGHT // image.shape[0])
    return image.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else image


class _Shown(NamedTuple):
    """Values in color, and what the colors mean."""

    picture: Rgb
    bar: Rgb


def _in_meters(
    depth: NDArray[np.float32], limits: tuple[float, float], colors: str, hatched: bool | None = None
) -> _Shown:
    labels = [f"{limits[0] + share * (limits[1] - limits[0]):.2f} m" for share in (0, 0.5, 1)]
    missing = not _read(depth).all() if hatched is None else hatched
    beside = bar(depth.shape[0], COLORS[colors], labels, reverse=True, hatched=missing)
    return _Shown(color_depth(depth, limits, colors), beside)


def _in_pixels(disparity: NDArray[np.float32], limits: tuple[float, float], colors: str) -> _Shown:
    """Near is bright, as everywhere: a large disparity."""
    labels = [f"{limits[0] + share * (limits[1] - limits[0]):.1f} px" for share in (0, 0.5, 1)]
    known = _read(disparity)
    beside = bar(disparity.shape[0], COLORS[colors], labels, hatched=not known.all())
    return _Shown(color_relative(np.where(known, disparity, np.float32(np.nan)), limits, colors), beside)


def _without_unit(values: NDArray[np.float32], limits: tuple[float, float], colors: str) -> _Shown:
    missing = not np.isfinite(values).all()
    beside = bar(values.shape[0], COLORS[colors], ["far", "", "near"], hatched=missing)
    return _Shown(color_relative(values, limits, colors), beside)


def _as_wide(narrow: Rgb, wide: Rgb) -> Rgb:
    """A bar with paper on its right, so that tiles under each other are equally wide."""
    return np.concatenate((narrow, blank_bar(wide[:, narrow.shape[1] :])), axis=1)
