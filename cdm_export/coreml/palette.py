"""The few values that many weights are rounded to with the least squared error: k-means in one dimension."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 30
"""Improvements; it settles long before for the sizes a palette has."""


def palette(weights: NDArray[Any], bits: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Table of ``2**bits`` values, ascending, in the weights' type, and for each weight (flattened) its index in it.

    Values that the table does not need repeat the last one.
    """
    values, counts = np.unique(weights.astype(np.float64), return_counts=True)
    size = 2**bits
    centers = values if len(values) <= size else _settled(_first(values, counts, size), values, counts)
    table = np.concatenate((centers, np.full(size - len(centers), centers[-1]))).astype(weights.dtype)
    exact = table[: len(centers)].astype(np.float64)
    indices = np.searchsorted((exact[1:] + exact[:-1]) / 2, weights.astype(np.float64).ravel())
    return table, indices.astype(np.uint8)


def _first(values: NDArray[np.float64], counts: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Centers as dense as the cube root of the weights, which is where the best ones are when there are many."""
    gaps = np.diff(values, prepend=values[0] - (values[1] - values[0]))
    share = np.cumsum(np.cbrt(counts / gaps) * gaps)
    places = (np.arange(size) + 0.5) / size * share[-1]
    return np.unique(values[np.searchsorted(share, places).clip(max=len(values) - 1)])


def _settled(
    centers: NDArray[np.float64], values: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Every center to the mean of the weights nearest to it, again and again."""
    number = np.concatenate(([0], np.cumsum(counts)))
    total = np.concatenate(([0.0], np.cumsum(values * counts)))
    for _ in range(_ROUNDS):
        ends = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2)
        bounds = np.concatenate(([0], ends, [len(values)]))
        held = np.diff(number[bounds])
        moved = np.diff(total[bounds])[held > 0] / held[held > 0]
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers
