"""Two results side by side: what changed, and what is noise."""

from dataclasses import dataclass
from typing import Any

from cdm_export.bench.result import BenchResult, Entry
from cdm_export.bench.statistics import Interval, unpaired_ratio

_SMALLEST = 0.02
"""Runs on another day differ by this much for no reason; a smaller change is not called one."""


@dataclass(frozen=True)
class Change:
    """One entry in both results."""

    name: str
    """Of the entry."""
    old_p50: float
    """ms."""
    new_p50: float
    """ms."""
    ratio: Interval
    """New over old median, with its 95 % interval."""

    @property
    def word(self) -> str:
        """``faster``, ``slower`` or ``noise``."""
        middle, low, high = self.ratio
        if low <= 1 <= high or abs(middle - 1) < _SMALLEST:
            return "noise"
        return "faster" if middle < 1 else "slower"


@dataclass(frozen=True)
class Comparison:
    """New against old."""

    changes: tuple[Change, ...]
    """Entries of both."""
    only: dict[str, str]
    """Entries of one: ``new`` or ``old``."""
    conditions: tuple[str, ...]
    """What else differs: machine, libraries, bundle, settings. With any of these a change has another cause."""


def compare_results(new: BenchResult, old: BenchResult) -> Comparison:
    """Entries are matched by backend, precision and threads."""
    before = {entry.name: entry for entry in old.entries}
    after = {entry.name: entry for entry in new.entries}
    changes = tuple(_change(name, after[name], before[name]) for name in after if name in before)
    only = {name: "new" for name in after if name not in before}
    only |= {name: "old" for name in before if name not in after}
    conditions = [
        f"{field}: {getattr(old, field)} -> {getattr(new, field)}"
        for field in ("identity", "model", "camera", "network", "idle_ms")
        if getattr(old, field) != getattr(new, field)
    ]
    conditions += _differences(old.environment, new.environment)
    return Comparison(changes, only, tuple(conditions))


def _change(name: str, new: Entry, old: Entry) -> Change:
    return Change(
        name, old.stages["total"].p50, new.stages["total"].p50, unpaired_ratio(new.samples_ms, old.samples_ms)
    )


_PASSING = ("date", "before", "after")
"""Differ always."""


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted({*old, *new} - set(_PASSING)):
        ours, theirs = new.get(key), old.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            lines += _differences(theirs, ours, f"{key}.")
        elif ours != theirs:
            lines.append(f"{prefix}{key}: {theirs} -> {ours}")
    return lines
