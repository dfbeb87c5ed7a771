"""Pictures a person can judge: depth in colour with a bar in metres, and where two depths differ.

What has no unit gets a bar without metres.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from runtimes.cache import write_atomically

Rgb = NDArray[np.uint8]
_FONT = cv2.FONT_HERSHEY_DUPLEX
_LEAST_HEIGHT = 120
"""Pixels; smaller frames are enlarged in pictures."""
P = TypeVar("P", bound=np.generic)
COLOURS = {
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
    "plasma": cv2.COLORMAP_PLASMA,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "turbo": cv2.COLORMAP_TURBO,
    "grey": None,
}
"""Colour maps by name, for what a picture shows; differences are always in viridis."""
DEFAULT_COLOURS = "inferno"
_RELATIVE = "relative inverse depth, no unit"
_INK, _PAPER, _MISSING = (30, 30, 30), (250, 250, 250), (0, 0, 0)


def depth_limits(*depths: NDArray[np.float32]) -> tuple[float, float]:
    """Common colour range of several depth images: 2nd to 98th percentile of their readings, metres."""
    readings = np.concatenate([depth[np.isfinite(depth) & (depth > 0)] for depth in depths])
    if readings.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(readings, (2, 98)))
    return low, max(high, low + 1e-3)


def colour_depth(depth: NDArray[np.float32], limits: tuple[float, float], colours: str = DEFAULT_COLOURS) -> Rgb:
    """[H, W] metres -> RGB, near is bright; no reading is black."""
    low, high = limits
    scaled = np.clip((np.nan_to_num(depth) - low) / (high - low), 0, 1)
    return _colour(1 - scaled, COLOURS[colours], ~(np.isfinite(depth) & (depth > 0)))


def colour_relative(values: NDArray[np.float32], limits: tuple[float, float], colours: str = DEFAULT_COLOURS) -> Rgb:
    """[H, W] relative inverse depth -> RGB, near is bright."""
    low, high = limits
    scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    return _colour(scaled, COLOURS[colours], ~np.isfinite(values))


def colour_difference(difference: NDArray[np.float64], known: NDArray[np.bool_], limit: float) -> Rgb:
    """[H, W] difference, 0..limit -> RGB; unknown is black."""
    return _colour(np.clip(difference / limit, 0, 1), cv2.COLORMAP_VIRIDIS, ~known)


def relative_difference(
    depth: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """``|depth - reference| / reference`` and where both have a reading."""
    known = np.isfinite(reference) & (reference > 0) & np.isfinite(depth) & (depth > 0)
    difference = np.zeros(depth.shape, np.float64)
    np.divide(np.abs(depth.astype(np.float64) - reference), reference, out=difference, where=known)
    return difference, known


def relative_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """Colour range of relative inverse depth: 2nd to 98th percentile, in its own numbers."""
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
    colours: str = DEFAULT_COLOURS,
) -> Rgb:
    """2x2: colour, sensor depth, refined depth, relative difference on sensor pixels; bars in metres and percent.

    ``word``: what the second depth is called.
    """
    rgb, sensor, refined = _large_enough(rgb), _large_enough(sensor), _large_enough(refined)
    limits = depth_limits(sensor, refined)
    difference, known = relative_difference(refined, sensor)
    percent_bar = _bar(rgb.shape[0], cv2.COLORMAP_VIRIDIS, ["0 %", "10 %", "20 %"])
    seen, made = (_in_metres(depth, limits, colours) for depth in (sensor, refined))
    tiles = [
        [_titled(rgb, np.full_like(seen.bar, _PAPER), "colour"), _titled(*seen, "sensor depth")],
        [
            _titled(*made, f"{word} depth"),
            _titled(colour_difference(difference, known, 0.2), percent_bar, f"|{word} - sensor| / sensor"),
        ],
    ]
    return _captioned(_grid(tiles), caption, warning)


def prediction_picture(
    rgb: Rgb,
    values: NDArray[np.float32],
    metric: bool,
    caption: str,
    warning: str = "",
    *,
    colours: str = DEFAULT_COLOURS,
) -> Rgb:
    """Colour beside depth, with a bar in metres, or beside relative inverse depth, with a bar that has none."""
    rgb, values = _large_enough(rgb), _large_enough(values)
    if metric:
        shown, title = _in_metres(values, depth_limits(values), colours), "predicted depth"
    else:
        shown, title = _without_unit(values, relative_limits(values), colours), _RELATIVE
    tiles = [[_titled(rgb, np.full_like(shown.bar, _PAPER), "colour"), _titled(*shown, title)]]
    return _captioned(_grid(tiles), caption, warning)


def error_picture(
    rgb: Rgb,
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    limit: float,
    caption: str,
    *,
    range_of_output: float | None = None,
) -> Rgb:
    """Heat map of the error beside its frame; the bar ends at ``limit`` (the gate's p99).

    The error is relative to the reference's depth, or to ``range_of_output`` where the values have no unit.
    """
    rgb, reference, candidate = _large_enough(rgb), _large_enough(reference), _large_enough(candidate)
    if range_of_output is None:
        difference, known = relative_difference(candidate, reference)
        shown, title = _in_metres(reference, depth_limits(reference), DEFAULT_COLOURS), "relative error"
    else:
        known = np.isfinite(reference) & np.isfinite(candidate) & (range_of_output > 0)
        difference = np.zeros(reference.shape, np.float64)
        np.divide(np.abs(candidate.astype(np.float64) - reference), range_of_output, out=difference, where=known)
        shown, title = _without_unit(reference, relative_limits(reference), DEFAULT_COLOURS), "error / range"
    error_bar = _bar(rgb.shape[0], cv2.COLORMAP_VIRIDIS, ["0", f"{limit / 2:g}", f"{limit:g}"])
    tiles = [
        [
            _titled(rgb, np.full_like(shown.bar, _PAPER), "colour"),
            _titled(*shown, "PyTorch"),
            _titled(colour_difference(difference, known, limit), error_bar, title),
        ]
    ]
    return _captioned(_grid(tiles), caption, "")


def write_png(path: Path, rgb: Rgb) -> None:
    """Write a picture whole or not at all."""
    written, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert written
    write_atomically(path, data.tobytes())


def _large_enough(image: NDArray[P]) -> NDArray[P]:
    """Whole-pixel enlargement of very small frames, so that bar and titles have room."""
    times = -(-_LEAST_HEIGHT // image.shape[0])
    return image.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else image


class _Shown(NamedTuple):
    """Values in colour, and what the colours mean."""

    picture: Rgb
    bar: Rgb


def _in_metres(depth: NDArray[np.float32], limits: tuple[float, float], colours: str) -> _Shown:
    labels = [f"{limits[0] + share * (limits[1] - limits[0]):.2f} m" for share in (0, 0.5, 1)]
    return _Shown(colour_depth(depth, limits, colours), _bar(depth.shape[0], COLOURS[colours], labels, reverse=True))


def _without_unit(values: NDArray[np.float32], limits: tuple[float, float], colours: str) -> _Shown:
    return _Shown(
        colour_relative(values, limits, colours), _bar(values.shape[0], COLOURS[colours], ["far", "", "near"])
    )


def _colour(share: NDArray[np.floating], colours: int | None, missing: NDArray[np.bool_]) -> Rgb:
    levels = (255 * share).astype(np.uint8)
    if colours is None:
        picture = cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB)
    else:
        picture = cv2.cvtColor(cv2.applyColorMap(levels, colours), cv2.COLOR_BGR2RGB)
    picture[missing] = _MISSING
    return np.asarray(picture, np.uint8)


def _scale(height: int) -> float:
    return max(height / 480, 0.45)


def _text(picture: Rgb, text: str, left: int, baseline: int, scale: float, colour: Sequence[int] = _INK) -> None:
    cv2.putText(picture, text, (left, baseline), _FONT, 0.5 * scale, colour, max(1, round(scale)), cv2.LINE_AA)


def _bar(height: int, colours: int | None, labels: Sequence[str], reverse: bool = False) -> Rgb:
    """Vertical colour bar, first label at the bottom."""
    scale = _scale(height)
    picture = np.full((height, round(110 * scale), 3), _PAPER, np.uint8)
    margin, width = round(20 * scale), round(18 * scale)
    ramp = np.linspace(1, 0, height - 2 * margin)[:, None].repeat(width, 1)
    nothing_missing = np.zeros(ramp.shape, bool)
    picture[margin : height - margin, round(8 * scale) : round(8 * scale) + width] = _colour(
        1 - ramp if reverse else ramp, colours, nothing_missing
    )
    for index, label in enumerate(labels):
        middle = height - margin - round(index / (len(labels) - 1) * (height - 2 * margin))
        _text(picture, label, round(32 * scale), middle + round(5 * scale), scale)
    return picture


def _titled(image: Rgb, bar: Rgb, title: str) -> Rgb:
    scale = _scale(image.shape[0])
    body = np.concatenate((image, bar), axis=1)
    head = np.full((round(28 * scale), body.shape[1], 3), _PAPER, np.uint8)
    _text(head, title, round(6 * scale), round(19 * scale), scale)
    return np.concatenate((head, body))


def _grid(rows: Sequence[Sequence[Rgb]]) -> Rgb:
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _captioned(picture: Rgb, caption: str, warning: str) -> Rgb:
    """Caption, and a warning in red, under the picture; shrunk until they fit."""
    lines = [(caption, _INK)] + ([(warning, (190, 20, 20))] if warning else [])
    base = max(picture.shape[1] / 1500, 0.5)
    strips = []
    for text, colour in lines:
        (wide, _), _ = cv2.getTextSize(text, _FONT, 0.5 * base, max(1, round(base)))
        scale = base * min(1.0, (picture.shape[1] - 20) / max(wide, 1))
        strip = np.full((round(30 * base), picture.shape[1], 3), _PAPER, np.uint8)
        _text(strip, text, 8, round(20 * base), scale, colour)
        strips.append(strip)
    return np.concatenate((picture, *strips))
