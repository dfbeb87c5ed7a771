"""The growth of the error along a network as a picture: one column per stage, logarithmic, the tolerance across it."""

from itertools import groupby
from math import ceil, floor, log10

import cv2
import numpy as np

from cdm_export.bisect.report import BisectReport, StageReport, describe_measure
from cdm_export.predict.drawing import Rgb

_FONT = cv2.FONT_HERSHEY_DUPLEX
_PAPER, _INK, _FAINT, _GRID = (255, 255, 255), (35, 35, 35), (120, 120, 120), (226, 226, 226)
TOLERANCE, OUTSIDE = (214, 40, 40), (214, 40, 40)
"""RGB of the tolerance's line and of the first stage outside it."""
SECTION_COLORS = ((31, 105, 180), (0, 128, 96), (140, 70, 170), (170, 100, 0))
"""RGB of the sections' curves, in order."""
_COLUMN, _PLOT = 26, 440
"""Width of a stage and height of the plot, pixels."""
_LEFT, _RIGHT, _TOP = 100, 60, 128
_TEXT = 0.45
_LEAST_WIDTH = 900


class _Picture:
    """Canvas and axes."""

    def __init__(self, report: BisectReport) -> None:
        names = [_short(stage.name) for stage in report.stages]
        self.bottom = _TOP + _PLOT
        below = max(_width(name) for name in names) + 34
        count = len(names)
        self._column = max(_COLUMN, (_LEAST_WIDTH - _LEFT - _RIGHT) // count)
        self.right = _LEFT + self._column * count
        self.pixels: Rgb = np.full((self.bottom + below, self.right + _RIGHT, 3), _PAPER, np.uint8)
        measured = [*map(_value, report.stages), report.output.relative, report.tolerance]
        values = [value for value in measured if value]
        self.low, self.high = floor(log10(min(values)) - 0.05), ceil(log10(max(values)) + 0.05)

    def x(self, index: int) -> int:
        """Middle of a stage's column."""
        return _LEFT + round((index + 0.5) * self._column)

    def edge(self, index: int) -> int:
        """Left edge of a stage's column."""
        return _LEFT + index * self._column

    def y(self, value: float) -> int:
        """Zero lies at the bottom."""
        share = (log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        return round(self.bottom - min(max(share, 0.0), 1.0) * _PLOT)

    def text(
        self, text: str, left: int, baseline: int, color: tuple[int, int, int] = _INK, scale: float = _TEXT
    ) -> None:
        cv2.putText(self.pixels, text, (left, baseline), _FONT, scale, color, 1, cv2.LINE_AA)

    def upright(self, text: str, middle: int, top: int, color: tuple[int, int, int]) -> None:
        """Text turned left, ending at ``top``."""
        strip = np.full((16, _width(text) + 4, 3), _PAPER, np.uint8)
        cv2.putText(strip, text, (2, 12), _FONT, _TEXT, color, 1, cv2.LINE_AA)
        turned = np.rot90(strip)
        self.pixels[top : top + turned.shape[0], middle - 8 : middle + 8] = turned

    def line(self, start: tuple[int, int], end: tuple[int, int], color: tuple[int, int, int], width: int = 1) -> None:
        straight = start[0] == end[0] or start[1] == end[1]
        cv2.line(self.pixels, start, end, color, width, cv2.LINE_8 if straight else cv2.LINE_AA)


def growth_picture(report: BisectReport) -> Rgb:
    """RGB [H, W, 3]: relative error per stage, sections in colors of their own, the first stage outside marked.

    Lines join a stage with those it reads in its section; both must have been looked at.
    """
    picture = _Picture(report)
    _grid(picture)
    _sections(picture, report)
    _tolerance(picture, report)
    _curves(picture, report)
    _alone(picture, report)
    _names(picture, report)
    _origins(picture, report)
    _heading(picture, report)
    return picture.pixels


def _heading(picture: _Picture, report: BisectReport) -> None:
    picture.text(f"{report.candidate} against {report.reference}, frame '{report.frame}'", 16, 28, scale=0.6)
    if report.verdict == "hidden":
        picture.text("outside only when no stage is shown: exposing them changes what is computed", 16, 52, OUTSIDE)
    elif report.first is None:
        picture.text("nothing looked at is outside the tolerance", 16, 52)
    else:
        measure = next(stage.measure for stage in report.stages if stage.name == report.first)
        assert measure is not None
        picture.text(f"first outside: {report.first}, {describe_measure(measure)}", 16, 52, OUTSIDE)
    words = "relative error (L2) of what each stage hands on; ring: the output with no stage shown beside it"
    crossed = any(stage.measure and _value(stage) is None for stage in report.stages)
    picture.text(words + ("; cross: NaN or Inf" if crossed else ""), 16, 74, _FAINT)


def _grid(picture: _Picture) -> None:
    for decade in range(picture.low, picture.high + 1):
        y = picture.y(10.0**decade)
        picture.line((_LEFT, y), (picture.right, y), _GRID)
        label = f"1e{decade}"
        picture.text(label, _LEFT - 10 - _width(label), y + 5, _FAINT)
    picture.line((_LEFT, _TOP), (_LEFT, picture.bottom), _FAINT)
    picture.line((_LEFT, picture.bottom), (picture.right, picture.bottom), _FAINT)


def _sections(picture: _Picture, report: BisectReport) -> None:
    for color, begin, stages in _by_section(report):
        left, right = picture.edge(begin), picture.edge(begin + len(stages))
        tint = np.array(_PAPER) - (np.array(_PAPER) - color) // 14
        area = picture.pixels[_TOP : picture.bottom, left:right]
        area[(area == _PAPER).all(axis=2)] = tint
        picture.pixels[_TOP - 4 : _TOP, left + 1 : right - 1] = color
        picture.text(stages[0].section, left + 4, _TOP - 12, color, 0.5)


def _tolerance(picture: _Picture, report: BisectReport) -> None:
    y = picture.y(report.tolerance)
    for x in range(_LEFT, picture.right, 14):
        picture.line((x, y), (min(x + 8, picture.right), y), TOLERANCE)
    picture.text(f"tolerance {report.tolerance:g}", _LEFT + 8, y - 7, TOLERANCE)


def _curves(picture: _Picture, report: BisectReport) -> None:
    at = {stage.name: (index, stage) for index, stage in enumerate(report.stages)}
    for color, begin, stages in _by_section(report):
        for index, stage in enumerate(stages, start=begin):
            value = _value(stage)
            if value is None:
                if stage.measure is not None:
                    _cross(picture, picture.x(index), color)
                continue
            here = (picture.x(index), picture.y(value))
            for name in stage.after:
                before, read = at[name]
                start = _value(read)
                if read.section == stage.section and start is not None:
                    picture.line((picture.x(before), picture.y(start)), here, color, 2)
            cv2.circle(picture.pixels, here, 4, color, -1, cv2.LINE_AA)


def _alone(picture: _Picture, report: BisectReport) -> None:
    color, begin, stages = _by_section(report)[-1]
    x = picture.x(begin + len(stages) - 1)
    if report.output.relative is None:
        _cross(picture, x, color)
    else:
        cv2.circle(picture.pixels, (x, picture.y(report.output.relative)), 7, color, 1, cv2.LINE_AA)


def _cross(picture: _Picture, x: int, color: tuple[int, int, int]) -> None:
    """A stage without a number (NaN or Inf): a cross at the upper edge."""
    y = _TOP + 10
    picture.line((x - 5, y - 5), (x + 5, y + 5), color, 2)
    picture.line((x - 5, y + 5), (x + 5, y - 5), color, 2)


def _names(picture: _Picture, report: BisectReport) -> None:
    for index, stage in enumerate(report.stages):
        x = picture.x(index)
        picture.line((x, picture.bottom), (x, picture.bottom + 4), _FAINT)
        color = OUTSIDE if stage.name in report.origins else _INK if stage.measure else _FAINT
        picture.upright(_short(stage.name), x, picture.bottom + 10, color)


def _origins(picture: _Picture, report: BisectReport) -> None:
    """A ring around every stage where the tolerance is left, and a line down to its name."""
    for index, stage in enumerate(report.stages):
        if stage.name not in report.origins:
            continue
        value = _value(stage)
        x, y = picture.x(index), _TOP + 10 if value is None else picture.y(value)
        picture.line((x, y + 9), (x, picture.bottom), OUTSIDE, 2 if stage.name == report.first else 1)
        cv2.circle(picture.pixels, (x, y), 9, OUTSIDE, 2, cv2.LINE_AA)


def _by_section(report: BisectReport) -> list[tuple[tuple[int, int, int], int, list[StageReport]]]:
    """Color, index of the first stage, stages: of each run of stages of one section."""
    titles = list(dict.fromkeys(stage.section for stage in report.stages))
    runs, begin = [], 0
    for title, group in groupby(report.stages, key=lambda stage: stage.section):
        stages = list(group)
        runs.append((SECTION_COLORS[titles.index(title) % len(SECTION_COLORS)], begin, stages))
        begin += len(stages)
    return runs


def _value(stage: StageReport) -> float | None:
    return stage.measure.relative if stage.measure else None


def _short(name: str) -> str:
    """Without the section's own module, which the heading stands for."""
    return name.partition(".")[2] or name


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _TEXT, 1)[0][0])
