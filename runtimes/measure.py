"""Timing that can be compared: warm-up until stable, interleaved, percentiles. Everything that times uses it."""

import time
from collections.abc import Callable, Mapping

import numpy as np

from runtimes.contract import Record

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
    """The very first call, where lazy initialisation shows."""
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


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    budget: float = 3.0,
    least: int = 5,
    most: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measurement]:
    """Time several callables against each other, one call of each in turn, so that drift meets all alike.

    ``budget``: seconds of timed calls per callable; at least ``least``, at most ``most`` calls. Calls must be
    synchronous: whoever launches device work waits for it inside the callable.
    """

    def milliseconds(call: Callable[[], object]) -> float:
        started = clock()
        call()
        return 1e3 * (clock() - started)

    warm: dict[str, list[float]] = {}
    for name, call in calls.items():
        times = warm[name] = [milliseconds(call)]
        while len(times) < _MOST_WARM_UPS:
            times.append(milliseconds(call))
            if _STABLE * times[-1] >= min(times[:-1]):
                break
    slowest = max(times[-1] for times in warm.values())
    rounds = int(min(max(least, 1e3 * budget / max(slowest, 1e-6)), most))
    timed: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            timed[name].append(milliseconds(call))
    return {name: _summary(warm[name], timed[name]) for name in calls}


def _summary(warm: list[float], timed: list[float]) -> Measurement:
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
