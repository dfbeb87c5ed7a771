"""How far apart two probes are at a stage."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import ParityError


class Measure(Record):
    """Candidate against reference at one stage; in the unit of what the stage hands on."""

    relative: float | None
    """L2 norm of the difference over that of the reference; None when there is no such number."""
    largest_difference: float | None
    """Largest absolute difference; None when a value of the candidate is not finite."""
    largest_reference: float
    """Largest absolute value of the reference."""
    not_finite: int
    """NaN and Inf values of the candidate."""
    inside: bool
    """All finite, and ``relative`` within the tolerance."""


def measure(stage: str, reference: NDArray[Any], candidate: NDArray[Any], tolerance: float) -> Measure:
    """Compare in float64.

    Raises ParityError, naming the stage, when the shapes differ or the reference itself is not finite: then there is
    nothing to compare with.
    """
    if candidate.shape != reference.shape:
        raise ParityError(
            f"'{stage}' is {list(candidate.shape)} in the candidate, {list(reference.shape)} in the reference"
        )
    exact = np.asarray(reference, np.float64)
    if not np.isfinite(exact).all():
        raise ParityError(f"'{stage}' holds NaN or Inf in the reference itself: nothing to compare with")
    largest = float(np.abs(exact).max(initial=0.0))
    not_finite = int(np.count_nonzero(~np.isfinite(candidate)))
    if not_finite:
        return Measure(
            relative=None, largest_difference=None, largest_reference=largest, not_finite=not_finite, inside=False
        )
    difference = candidate - exact
    apart, size = float(np.linalg.norm(difference.ravel())), float(np.linalg.norm(exact.ravel()))
    relative = 0.0 if apart == 0 else apart / size if size > 0 else None
    return Measure(
        relative=relative,
        largest_difference=float(np.abs(difference).max(initial=0.0)),
        largest_reference=largest,
        not_finite=0,
        inside=relative is not None and relative <= tolerance,
    )
