"""Are the edges of things where they are? Depth Pro's boundary F1 (Bochkovskii et al., arXiv 2410.02073, section 4)."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from cdm_export.evaluate.metrics import Map, Mask

_RATIOS = np.linspace(1.05, 1.25, 10)
"""Of a pixel's depth to its neighbor's, above which there is an edge between them."""
_WEIGHTS = _RATIOS / _RATIOS.sum()
"""Clear edges count more; in proportion to the ratio, as in the paper's program."""


def boundary_f1(depth: Map, truth: Map, mask: Mask) -> float | None:
    """F1 of occluding edges between pixels side by side that both have truth, 0..1; no scale matters.

    ``depth`` and ``truth`` [H, W] are above 0 in ``mask``. Matches are counted over all four directions, as the paper's
    formula has it. None where the truth has no edge of any ratio: there is nothing to find.
    """
    logs, exact = (np.log(np.where(mask, each, 1).astype(np.float64)) for each in (depth, truth))
    found = np.zeros(len(_RATIOS))
    ours, theirs = np.zeros_like(found), np.zeros_like(found)
    for axis, sign in product((0, 1), (1, -1)):
        both = _pairs(mask, axis)
        jump, true_jump = (sign * np.diff(each, axis=axis)[both] for each in (logs, exact))
        for index, ratio in enumerate(np.log(_RATIOS)):
            edge, true_edge = jump > ratio, true_jump > ratio
            found[index] += np.count_nonzero(edge & true_edge)
            ours[index] += np.count_nonzero(edge)
            theirs[index] += np.count_nonzero(true_edge)
    if not theirs[0]:
        return None
    # Twice the matches by the edges of both is the harmonic mean of precision and recall.
    return float((_WEIGHTS * 2 * found / np.maximum(ours + theirs, 1)).sum())


def _pairs(mask: Mask, axis: int) -> NDArray[np.bool_]:
    """Where a pixel and the next one along ``axis`` both count."""
    return mask[1:] & mask[:-1] if axis == 0 else mask[:, 1:] & mask[:, :-1]
