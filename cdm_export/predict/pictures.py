"""Pictures a person can judge: depth in color with a bar in meters, and where two depths differ.

What has no unit gets a bar without meters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.cache import write_atomically

Rgb = NDArray[np.uint8]
_FONT = cv2.FONT_HERSHEY_DUPLEX
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
_INK, _PAPER, _MISSING, _ALARM = (30, 30, 30), (250, 250, 250), (0, 0, 0), (190, 20, 20)


def depth_limits(*depths: NDArray[np.float32]) -> tuple[float, float]:
    """Common color range of several depth images: 2nd to 98th percentile of their readings, meters."""
    readings = np.concatenate([depth[np.isfinite(depth) & (depth > 0)] for depth in depths])
    if readings.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(readings, (2, 98)))
    return low, max(high, low + 1e-3)


def color_depth(depth: NDArray[np.float32], limits: tuple[float, float], colors: str = DEFAULT_COLORS) -> Rgb:
    """[H, W] meters -> RGB, near is bright; no reading is black."""
    low, high = limits
    scaled = np.clip((np.nan_to_num(depth) - low) / (high - low), 0, 1)
    return _color(1 - scaled, COLORS[colors], ~(np.isfinite(depth) & (depth > 0)))


def color_relative(values: NDArray[np.float32], limits: tuple[float, float], colors: str = DEFAULT_COLORS) -> Rgb:
    """[H, W] relative inverse depth -> RGB, near is bright."""
    low, high = limits
    scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    return _color(scaled, COLORS[colors], ~np.isfinite(values))


def color_difference(difference: NDArray[np.float64], known: NDArray[np.bool_], limit: float) -> Rgb:
    """[H, W] difference, 0..limit -> RGB; unknown is black."""
    return _color(np.clip(difference / limit, 0, 1), cv2.COLORMAP_VIRIDIS, ~known)


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
) -> Rgb:
    """2x2: color, sensor depth, refined depth, relative difference on sensor pixels; bars in meters and percent.

    ``word``: what the second depth is called.
    """
    rgb, sensor, refined = _large_enough(rgb), _large_enough(sensor), _large_enough(refined)
    limits = depth_limits(sensor, refined)
    difference, known = relative_difference(refined, sensor)
    percent_bar = _bar(rgb.shape[0], cv2.COLORMAP_VIRIDIS, ["0 %", "10 %", "20 %"])
    seen, made = (_in_meters(depth, limits, colors) for depth in (sensor, refined))
    tiles = [
        [_titled(rgb, np.full_like(seen.bar, _PAPER), "color"), _titled(*seen, "sensor depth")],
        [
            _titled(*made, f"{word} depth"),
            _titled(color_difference(difference, known, 0.2), percent_bar, f"|{word} - sensor| / sensor"),
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
    colors: str = DEFAULT_COLORS,
) -> Rgb:
    """Color beside depth, with a bar in meters, or beside relative inverse depth, with a bar that has none."""
    rgb, values = _large_enough(rgb), _large_enough(values)
    if metric:
        shown, title = _in_meters(values, depth_limits(values), colors), "predicted depth"
    else:
        shown, title = _without_unit(values, relative_limits(values), colors), _RELATIVE
    tiles = [[_titled(rgb, np.full_like(shown.bar, _PAPER), "color"), _titled(*shown, title)]]
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
        shown, title = _in_meters(reference, depth_limits(reference), DEFAULT_COLORS), "relative error"
    else:
        known = np.isfinite(reference) & np.isfinite(candidate) & (range_of_output > 0)
        difference = np.zeros(reference.shape, np.float64)
        np.divide(np.abs(candidate.astype(np.float64) - reference), range_of_output, out=difference, where=known)
        shown, title = _without_unit(reference, relative_limits(reference), DEFAULT_COLORS), "error / range"
    error_bar = _bar(rgb.shape[0], cv2.COLORMAP_VIRIDIS, ["0", f"{limit / 2:g}", f"{limit:g}"])
    tiles = [
        [
            _titled(rgb, np.full_like(shown.bar, _PAPER), "color"),
            _titled(*shown, "PyTorch"),
            _titled(color_difference(difference, known, limit), error_bar, title),
        ]
    ]
    return _captioned(_grid(tiles), caption, "")


def encode_png(rgb: Rgb) -> bytes:
    """A picture as the bytes of its file."""
    written, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert written
    return data.tobytes()


def write_png(path: Path, rgb: Rgb) -> None:
    """Write a picture whole or not at all."""
    write_atomically(path, encode_png(rgb))


def _large_enough(image: NDArray[P]) -> NDArray[P]:
    """Whole-pixel enlargement of very small frames, so that bar and titles have room."""
    times = -(-_LEAST_HEIGHT // image.shape[0])
    return image.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else image


class _Shown(NamedTuple):
    """Values in color, and what the colors mean."""

    picture: Rgb
    bar: Rgb


def _in_meters(depth: NDArray[np.float32], limits: tuple[float, float], colors: str) -> _Shown:
    labels = [f"{limits[0] + share * (limits[1] - limits[0]):.2f} m" for share in (0, 0.5, 1)]
    return _Shown(color_depth(depth, limits, colors), _bar(depth.shape[0], COLORS[colors], labels, reverse=True))


def _without_unit(values: NDArray[np.float32], limits: tuple[float, float], colors: str) -> _Shown:
    return _Shown(color_relative(values, limits, colors), _bar(values.shape[0], COLORS[colors], ["far", "", "near"]))


def _color(share: NDArray[np.floating], colors: int | None, missing: NDArray[np.bool_]) -> Rgb:
    levels = (255 * share).astype(np.uint8)
    if colors is None:
        picture = cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB)
    else:
        picture = cv2.cvtColor(cv2.applyColorMap(levels, colors), cv2.COLOR_BGR2RGB)
    picture[missing] = _MISSING
    return np.asarray(picture, np.uint8)


def _scale(height: int) -> float:
    return max(height / 480, 0.45)


def drawable(text: str) -> str:
    """``text`` with what does not print as an escape: OpenCV draws it as it is, and crashes on the surrogates that
    stand for the bytes of a file name that is not UTF-8 (5.0).
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def _text(picture: Rgb, text: str, left: int, baseline: int, scale: float, color: Sequence[int] = _INK) -> None:
    text = drawable(text)
    cv2.putText(picture, text, (left, baseline), _FONT, 0.5 * scale, color, max(1, round(scale)), cv2.LINE_AA)


def _bar(height: int, colors: int | None, labels: Sequence[str], reverse: bool = False) -> Rgb:
    """Vertical color bar, first label at the bottom."""
    scale = _scale(height)
    picture = np.full((height, round(110 * scale), 3), _PAPER, np.uint8)
    margin, width = round(20 * scale), round(18 * scale)
    ramp = np.linspace(1, 0, height - 2 * margin)[:, None].repeat(width, 1)
    nothing_missing = np.zeros(ramp.shape, bool)
    picture[margin : height - margin, round(8 * scale) : round(8 * scale) + width] = _color(
        1 - ramp if reverse else ramp, colors, nothing_missing
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
    """Caption, and warnings in red, under the picture: the caption shrunk until it fits, every line of ``warning``
    broken into as many as it needs.
    """
    base = max(picture.shape[1] / 1500, 0.5)
    lines = [(drawable(caption), _INK)]
    for line in filter(None, warning.split("\n")):
        lines += [(part, _ALARM) for part in _broken(drawable(line), picture.shape[1] - 20, base)]
    strips = []
    for text, color in lines:
        scale = base * min(1.0, (picture.shape[1] - 20) / max(_width(text, base), 1))
        strip = np.full((round(30 * base), picture.shape[1], 3), _PAPER, np.uint8)
        _text(strip, text, 8, round(20 * base), scale, color)
        strips.append(strip)
    return np.concatenate((picture, *strips))


def _width(text: str, scale: float) -> int:
    (wide, _), _ = cv2.getTextSize(text, _FONT, 0.5 * scale, max(1, round(scale)))
    return wide


def _broken(text: str, width: int, scale: float) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, broken between words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and _width(longer, scale) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
