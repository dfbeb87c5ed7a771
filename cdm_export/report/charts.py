"""Charts as plain numbers: where a template has to draw what. No library draws so little in so few bytes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdm_export.bench.result import Entry


@dataclass(frozen=True)
class Bar:
    """One backend's latency; positions in percent of the axis."""

    name: str
    """Of the entry."""
    p50: float
    """Length of the bar."""
    p99: float
    """Position of the mark."""
    label: str
    """Figures in words."""
    failed: bool
    """Whether it ran under a verdict that did not pass."""


def latency_bars(entries: Sequence[Entry]) -> list[Bar]:
    """Fastest first; the axis ends at the largest p99."""
    if not entries:
        return []
    end = max(entry.stages["total"].p99 for entry in entries)
    bars = []
    for entry in sorted(entries, key=lambda entry: entry.stages["total"].p50):
        total = entry.stages["total"]
        bars.append(
            Bar(
                name=entry.name,
                p50=100 * total.p50 / end,
                p99=100 * total.p99 / end,
                label=f"{total.p50:.4g} ms, p99 {total.p99:.4g} ms, {entry.frames_per_second:.3g} frames/s",
                failed=entry.verdict is not None and not entry.verdict.passed,
            )
        )
    return bars


@dataclass(frozen=True)
class Point:
    """One point of a scatter, in its units."""

    name: str
    """What it is."""
    x: float
    """ms."""
    y: float
    """Error, in the unit that its axis names."""
    group: str
    """``passed`` or not; chooses the mark."""


@dataclass(frozen=True)
class Placed:
    """A point or a tick on the canvas, in the units of the drawing."""

    name: str
    """Label."""
    x: float
    """From the left."""
    y: float
    """From the top."""
    group: str = ""
    """As in ``Point``."""
    left: bool = False
    """Whether the label stands on the left, for want of room on the right."""
    label_y: float = 0.0
    """Baseline of the label; labels never stand on each other."""


_LABEL_HEIGHT = 14
_DIGIT_WIDTH = 7
"""Of the drawing's 12 px font."""


@dataclass(frozen=True)
class Scatter:
    """Both axes logarithmic: latency and error each span decades."""

    width: int
    """Of the drawing."""
    height: int
    """Of the drawing."""
    points: list[Placed]
    """The data."""
    x_ticks: list[Placed]
    """Along the bottom."""
    y_ticks: list[Placed]
    """Along the left."""


def scatter(points: Sequence[Point], width: int = 680, height: int = 340) -> Scatter | None:
    """Place positive points; None when there is nothing to compare (fewer than two)."""
    known = [point for point in points if point.x > 0 and point.y > 0]
    if len(known) < 2:
        return None
    left, right, top, bottom = 64, width - 24, 16, height - 40
    x_low, x_high = _range([point.x for point in known])
    y_low, y_high = _range([point.y for point in known])

    def across(value: float) -> float:
        return left + (right - left) * (math.log10(value) - x_low) / (x_high - x_low)

    def up(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(value) - y_low) / (y_high - y_low)

    placed: list[Placed] = []
    for point in sorted(known, key=lambda point: -point.y):
        x, y = across(point.x), up(point.y)
        lowest = placed[-1].label_y + _LABEL_HEIGHT if placed else 0.0
        placed.append(Placed(point.name, x, y, point.group, x > (left + right) / 2, max(y + 4, lowest)))
    return Scatter(
        width,
        height,
        placed,
        _apart([Placed(f"{tick:g}", across(tick), bottom) for tick in _ticks(x_low, x_high)], _width),
        _apart([Placed(f"{tick:g}", left, up(tick)) for tick in reversed(_ticks(y_low, y_high))], _height),
    )


def _width(before: Placed, after: Placed) -> bool:
    """Whether two labels, centered under their ticks, are a digit apart."""
    return after.x - before.x >= _DIGIT_WIDTH * ((len(before.name) + len(after.name)) / 2 + 1)


def _height(before: Placed, after: Placed) -> bool:
    return after.y - before.y >= _LABEL_HEIGHT


def _apart(ticks: Sequence[Placed], fits: Callable[[Placed, Placed], bool]) -> list[Placed]:
    """Ticks whose labels do not stand on each other, the first among them."""
    shown: list[Placed] = []
    for tick in ticks:
        if not shown or fits(shown[-1], tick):
            shown.append(tick)
    return shown


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Decades that hold the values with some air."""
    low, high = math.log10(min(values)), math.log10(max(values))
    air = 0.1 * (high - low) + 0.08
    return low - air, high + air


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them or all digits where that leaves few."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    for steps in ((1,), (1, 2, 5), tuple(range(1, 10)), tuple(n / 10 for n in range(10, 100))):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        shown = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(shown) >= 3:
            break
    return shown
