"""Whether a depth image looks like meters: for the command line, where a wrong scale is a typing error."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.processing.depth import NEAREST
from cdm_export.runtimes.sources.base import SourceFrame

_ENOUGH = 0.5  # Share of readings in range below which the scale is doubtful; real scenes have more.
_WORTH_A_NOTE = 0.01  # Share of readings beyond max_depth, which are dropped.
_SCALES = (1000.0, 10000.0, 5000.0, 4000.0, 256.0, 100.0)  # mm, 0.1 mm, TUM, L515's 1/4 mm, KITTI, cm.
_ROTATED = 8000.0  # What SUN RGB-D's files are in, as they are stored.
_FLOATS = ((1000.0, "millimeters"), (100.0, "centimeters"), (10000.0, "tenths of a millimeter"), (0.001, "kilometers"))
_PLAUSIBLE = (0.3, 6.0)  # Meters; the median of an indoor frame.
_TYPICAL = 2.0  # Meters; of several plausible scales, the one whose median is nearest to this comes first.
_LEVELS = 64  # Different readings below which all being multiples of 8 means nothing.


def check_depth(source_frame: SourceFrame, max_depth: float) -> list[str]:
    """Warnings about the depth of one frame, empty when it looks right or there is none.

    ``max_depth`` in meters is where readings stop counting. Warns when fewer than half of the readings lie between
    0.07 m and ``max_depth``, and names the scales that would help. Raises InputError when no pixel has a reading.
    """
    if source_frame.frame.depth is None:
        return []
    readings = _Readings.of(source_frame, max_depth)
    if not readings.meters.size:
        raise InputError(
            f"{source_frame.name}: no pixel of the depth image has a reading, all are 0, negative, NaN or Inf",
            "Check that the lens is not covered, and that this is the depth image of the frame.",
        )
    hint = "; ".join(readings.hints)
    rotated = readings.rotated and readings.scale != _ROTATED
    if readings.share >= _ENOUGH and not rotated:
        return []
    return [readings.finding + (f"; {hint}" if hint else "")]


def require_readings(source_frame: SourceFrame, max_depth: float) -> list[str]:
    """``check_depth`` where the model reads the depth: raises InputError as well when no reading is in range."""
    warnings = check_depth(source_frame, max_depth)
    if source_frame.frame.depth is None:
        return warnings
    readings = _Readings.of(source_frame, max_depth)
    if readings.share == 0:
        hint = "; ".join(readings.hints)
        raise InputError(
            f"{readings.finding}: the model would see no depth at all",
            (hint[:1].upper() + hint[1:] + "." if hint else "Check --depth-scale and --max-depth."),
        )
    return warnings


def dropped_note(source_frame: SourceFrame, max_depth: float) -> str:
    """What to say of readings beyond ``max_depth`` meters, which are dropped; empty when they are under 1 %."""
    depth = source_frame.frame.depth
    if depth is None:
        return ""
    readings = depth[np.isfinite(depth) & (depth > 0)]
    beyond = float(np.mean(readings > max_depth)) if readings.size else 0.0
    if beyond <= _WORTH_A_NOTE:
        return ""
    return (
        f"{source_frame.name}: {beyond:.1%} of the readings lie beyond --max-depth {max_depth:g} and are dropped "
        "(rgbd-depth's infer.py drops those beyond 25)"
    )


@dataclass(frozen=True)
class _Readings:
    """The readings of one frame, and what their numbers say about their unit."""

    name: str
    meters: NDArray[np.float32]
    """Finite and above 0."""
    raw: NDArray[Any] | None
    """Where ``meters`` come from, if they are integers."""
    scale: float
    """Units per meter; 1 for floating point."""
    max_depth: float

    @classmethod
    def of(cls, source: SourceFrame, max_depth: float) -> "_Readings":
        depth, raw = source.frame.depth, source.raw_depth
        assert depth is not None
        there = np.isfinite(depth) & (depth > 0)
        if raw is None or np.issubdtype(raw.dtype, np.floating):
            return cls(source.name, depth[there], None, 1.0, max_depth)
        return cls(source.name, depth[there], raw[there], source.depth_scale, max_depth)

    @cached_property
    def share(self) -> float:
        """In range, 0..1."""
        return float(np.mean((self.meters >= NEAREST) & (self.meters <= self.max_depth)))

    @cached_property
    def median(self) -> float:
        """Meters."""
        return float(np.median(self.meters))

    @property
    def finding(self) -> str:
        share = ("only " if 0.005 <= self.share < _ENOUGH else "") + f"{self.share:.0%}"
        return (
            f"{self.name}: {share} of the readings lie between {NEAREST:g} and {self.max_depth:g} m "
            + (f"at --depth-scale {self.scale:g}" if self.raw is not None else "read as meters")
            + f" (median {_meters(self.median)})"
        )

    @cached_property
    def rotated(self) -> bool:
        """Whether the upper three of 16 bits were moved to the lower end, as SUN RGB-D does: all are multiples of 8."""
        if self.raw is None or self.raw.dtype.itemsize < 2:
            return False
        multiples = np.mean(self.raw % 8 == 0) >= 0.99
        return bool(multiples) and len(np.unique(self.raw[:: max(1, self.raw.size // 20000)])) >= _LEVELS

    @cached_property
    def hints(self) -> list[str]:
        """What would give plausible meters, the likeliest first."""
        if self.raw is None:
            fits = [(factor, unit) for factor, unit in _FLOATS if self._plausible(self.median / factor)]
            return [
                f"{'divided by' if factor > 1 else 'times'} {max(factor, 1 / factor):g}, the median would be "
                f"{_meters(self.median / factor)}: these look like {unit}, and floating point is read as meters"
                for factor, unit in fits[:2]
            ]
        if self.rotated and self.scale != _ROTATED:
            return [
                "every reading is a multiple of 8: SUN RGB-D stores depth with its bits rotated by 3. Undo that with "
                "(d >> 3) | (d << 13), which gives millimeters, or "
                f"use --depth-scale 8000 for a median of {_meters(self.median * self.scale / _ROTATED)}"
            ]
        inverse = 1 / self.scale
        if self.scale < 1 and self._plausible(self.median * self.scale / inverse):
            return [
                f"--depth-scale is units per meter, and {self.scale:g} is meters per unit: --depth-scale {inverse:g} "
                f"would give a median of {_meters(self.median * self.scale / inverse)}"
            ]
        better = {each: self.median * self.scale / each for each in self._candidates()}
        return [
            f"--depth-scale {each:g} would give a median of {_meters(better[each])}"
            for each in sorted(better, key=lambda each: abs(np.log(better[each] / _TYPICAL)))
        ][:2]

    def _candidates(self) -> Iterable[float]:
        others = [each for each in _SCALES if each != self.scale]
        fits = [each for each in others if self._plausible(self.median * self.scale / each)]
        rotated = self.median * self.scale / _ROTATED
        return fits or ([_ROTATED] if self.scale != _ROTATED and self._plausible(rotated) else [])

    def _plausible(self, median: float) -> bool:
        return _PLAUSIBLE[0] <= median <= min(_PLAUSIBLE[1], self.max_depth)


def _meters(value: float) -> str:
    return f"{value:.3g} m"
