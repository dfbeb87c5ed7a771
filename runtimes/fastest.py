"""The fastest of several paths, when only differences beyond noise count and a tie goes to the higher precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cdm_export.runtimes.contract import COMPRESSED, IMAGE, INTEGER, QUANTIZED
from cdm_export.runtimes.local_results import Ratio

PRECISIONS = ("fp32", "tf32", "fp16-attn32", "fp16", IMAGE, "bf16", *COMPRESSED, QUANTIZED, *INTEGER)
"""From high to low."""
_TIE = 0.1
"""Medians measured one after the other that differ by less than this say nothing: load and clocks move them as much."""

_What = TypeVar("_What")


@dataclass(frozen=True)
class Candidate(Generic[_What]):
    """One path that may be taken, and what is known of its speed."""

    what: _What
    """What it stands for."""
    key: tuple[str, str]
    """Backend, and what it computes in."""
    engine: bool
    """Whether it is an engine, built and tested on this device."""
    p50_ms: float | None
    """Median latency of inference, ms; perhaps measured at another time than the others'."""
    won: bool
    """Whether it is an engine that has already beaten the one that was built beside it, in turns."""
    ratios: Mapping[tuple[str, str], Ratio]
    """Against others, timed in turn, by their ``key``."""

    @property
    def rank(self) -> int:
        """Place of its precision in ``PRECISIONS``."""
        precision = self.key[1]
        return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def fastest(candidates: Sequence[Candidate[_What]]) -> Candidate[_What]:
    """The one to take, of at least one.

    The first is an engine where there is one, else of the highest precision, in the order given. Another one replaces
    it when both were timed in turn and it is faster beyond doubt. Figures of different times count only between paths
    of one precision, or between engines (each was asked for by building it), and from 10 % on.
    """
    engines = [candidate for candidate in candidates if candidate.engine]
    others = [candidate for candidate in candidates if not candidate.engine]
    ordered = [*sorted(engines, key=lambda one: one.rank), *sorted(others, key=lambda one: one.rank)]
    best = ordered[0]
    for candidate in ordered[1:]:
        if _beats(candidate, best):
            best = candidate
    return best


def _beats(candidate: Candidate[_What], best: Candidate[_What]) -> bool:
    in_turn = candidate.ratios.get(best.key), best.ratios.get(candidate.key)
    if in_turn[0] is not None:
        return in_turn[0].faster
    if in_turn[1] is not None:
        return in_turn[1].slower
    if candidate.engine and best.engine and candidate.won:
        return True
    if candidate.rank != best.rank and not (candidate.engine and best.engine):
        return False
    if candidate.engine != best.engine or candidate.p50_ms is None:
        return False
    return best.p50_ms is None or candidate.p50_ms < (1 - _TIE) * best.p50_ms
