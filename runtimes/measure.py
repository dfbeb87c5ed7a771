"""Timing that can be compared: warm-up until stable, interleaved, percentiles. Everything that times uses it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import CdmExportError

_STABLE = 1.05
"""Warm-up ends when a call is no longer 5 % faster than the fastest before it ..."""
_MOST_WARM_UPS = 10
"""... or after this many calls."""


class Measurement(Record):
    """Milliseconds per call."""

    calls: int
    """Timed calls."""
    warm_ups: int
    """Calls before them."""
    first: float
    """The very first call, where lazy initialization shows."""
    p50: float
    """Median."""
    p90: float
    """90th percentile."""
    p99: float
    """99th percentile."""
    max: float
    """Slowest."""
    mean: float
    """Arithmetic mean; nothing was clipped."""


@dataclass
class Turns:
    """Several things timed against each other, one call of each in turn, so that drift meets all alike.

    A call returns its own milliseconds. One that raises is out, and the others go on. What was timed so far stays
    readable whatever interrupts.
    """

    calls: Mapping[str, Callable[[], float]]
    """What to time, by name."""
    warm: dict[str, list[float]] = field(default_factory=dict)
    """Calls before the timed ones, ms."""
    timed: dict[str, list[float]] = field(default_factory=dict)
    """Timed calls, ms; the n-th of each belongs to the n-th round."""
    failed: dict[str, CdmExportError] = field(default_factory=dict)
    """What died, and how."""

    def warm_up(self) -> None:
        """Call each until a call is no faster than those before it."""
        for name in self.calls:
            times = self.warm[name] = []
            while len(times) < _MOST_WARM_UPS and self._call(name, times):
                if len(times) > 1 and _STABLE * times[-1] >= min(times[:-1]):
                    break

    def planned(self, budget: float, least: int, most: int) -> int:
        """Rounds that take about ``budget`` seconds of each, from ``least`` to ``most``; after ``warm_up``."""
        slowest = max((times[-1] for name, times in self.warm.items() if name not in self.failed), default=0.0)
        return int(min(max(least, 1e3 * budget / max(slowest, 1e-6)), most))

    def rounds(self, count: int) -> Iterator[int]:
        """Timed rounds, numbered from 0; one is full when its number comes."""
        for number in range(count):
            for name in self.calls:
                if name not in self.failed:
                    self._call(name, self.timed.setdefault(name, []))
            yield number

    def _call(self, name: str, times: list[float]) -> bool:
        try:
            times.append(self.calls[name]())
        except CdmExportError as error:
            self.failed[name] = error
        return name not in self.failed


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    budget: float = 3.0,
    least: int = 5,
    most: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measurement]:
    """Time several callables of this process against each other.

    ``budget``: seconds of timed calls per callable; at least ``least``, at most ``most`` calls. Calls must be
    synchronous: whoever launches device work waits for it inside the callable. Raises what a callable raises.
    """

    def milliseconds(call: Callable[[], object]) -> float:
        started = clock()
        call()
        return 1e3 * (clock() - started)

    turns = Turns({name: partial(milliseconds, call) for name, call in calls.items()})
    turns.warm_up()
    for _ in turns.rounds(turns.planned(budget, least, most)):
        pass
    for error in turns.failed.values():
        raise error
    return {name: summarize(turns.warm[name], turns.timed[name]) for name in calls}


def summarize(warm: Sequence[float], timed: Sequence[float]) -> Measurement:
    """Of milliseconds per call, at least one of each."""
    p50, p90, p99 = (float(value) for value in np.percentile(timed, (50, 90, 99)))
    return Measurement(
        calls=len(timed),
        warm_ups=len(warm),
        first=warm[0],
        p50=p50,
        p90=p90,
        p99=p99,
        max=max(timed),
        mean=float(np.mean(timed)),
    )
