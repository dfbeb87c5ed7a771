"""What an activation's values were, and how far its integers should reach: largest, percentile, least squared error."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdm_export.runtimes.errors import ParityError

_BINS = 4096
_PERCENTILE = 99.99
"""Share of values kept; the others saturate."""
_CANDIDATES = np.linspace(0.02, 1.0, 99)
"""Bounds tried for the least squared error, as shares of the largest value."""


class Histogram:
    """Magnitudes of everything that was seen, over a range of a power of two that doubles when it has to.

    The result depends on the values alone, not on their order.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_BINS, np.int64)
        self.range = 0.0
        """Upper end of the last bin."""
        self.largest = 0.0
        """Largest magnitude."""

    def add(self, values: Tensor) -> None:
        """Count a tensor. Raises ParityError for NaN or Inf."""
        magnitudes = values.detach().abs()
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise ParityError("activations hold NaN or Inf on a calibration frame", "Leave int8 out of --precision.")
        self.largest = max(self.largest, largest)
        if largest > self.range:
            self._widen(2.0 ** float(np.ceil(np.log2(largest))))
        if self.range:
            self.counts += torch.histc(magnitudes.float(), _BINS, 0, self.range).numpy().astype(np.int64)

    def _widen(self, wanted: float) -> None:
        while self.range and self.range < wanted and self.counts.any():
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)))
            self.range *= 2
        self.range = max(self.range, wanted)


def _largest(histogram: Histogram) -> float:
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    share = np.cumsum(histogram.counts) / max(int(histogram.counts.sum()), 1)
    last = int(np.searchsorted(share, _PERCENTILE / 100))
    return min((last + 1) * histogram.range / _BINS, histogram.largest)


def _least_squares(histogram: Histogram) -> float:
    """The bound whose rounding and saturation together have the least squared error over the histogram."""
    seen = np.flatnonzero(histogram.counts)
    values = (seen + 0.5) * histogram.range / _BINS
    bounds = _CANDIDATES[:, None] * histogram.largest
    steps = bounds / 127
    rounded = np.minimum(np.rint(values / steps), 127) * steps
    errors = ((rounded - values) ** 2 * histogram.counts[seen]).sum(axis=1)
    return float(bounds[int(np.argmin(errors)), 0])


OBSERVERS: Mapping[str, Callable[[Histogram], float]] = {
    "abs-max": _largest,
    "percentile": _percentile,
    "mse": _least_squares,
}
"""Name -> bound of the magnitudes that integers should hold; 0 where nothing but zeros was seen."""
