"""Intervals by resampling: latencies are skewed, so nothing is assumed of their distribution."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_SHARE = (2.5, 97.5)
"""Percentiles of a 95 % interval."""

Interval = tuple[float, float, float]
"""Estimate, and the ends of its 95 % interval: percentile bootstrap (Efron 1979), seeded, so that it repeats."""


def mean_interval(samples: Sequence[float]) -> Interval:
    """Mean of at least one sample."""
    values = np.asarray(samples)
    return _around(float(values.mean()), _resampled(values).mean(axis=1))


def median_interval(samples: Sequence[float]) -> Interval:
    """Median of at least one sample."""
    values = np.asarray(samples)
    return _around(float(np.median(values)), np.median(_resampled(values), axis=1))


def paired_ratio(samples: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Median over rounds of sample / baseline; both were timed in the same rounds, so what disturbed one cancels."""
    return median_interval([value / base for value, base in zip(samples, baseline, strict=True)])


def unpaired_ratio(samples: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Ratio of the medians of two runs that have nothing to do with each other."""
    new, old = np.asarray(samples), np.asarray(baseline)
    ratios = np.median(_resampled(new), axis=1) / np.median(_resampled(old, seed=1), axis=1)
    return _around(float(np.median(new) / np.median(old)), ratios)


def _resampled(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    chosen = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    return values[chosen]


def _around(estimate: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = (float(value) for value in np.percentile(resampled, _SHARE))
    return estimate, low, high
