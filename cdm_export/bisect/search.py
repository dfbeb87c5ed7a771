"""Where does the error leave the tolerance? Strategies over a network's stages; they know nothing of backends.

``evaluate`` measures stages, all of one call in one run of the candidate. A backend may compute otherwise when more of
its inside is shown (a fusion that cannot happen any more), so the output is first looked at alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from cdm_export.bisect.measures import Measure
from cdm_export.bisect.stages import Stage

Evaluate: TypeAlias = Callable[[Sequence[str]], Mapping[str, Measure]]
Verdict: TypeAlias = Literal["inside", "outside", "hidden"]
Strategy: TypeAlias = Literal["scan", "bisect"]


@dataclass(frozen=True)
class Found:
    """What a search found."""

    verdict: Verdict
    """``inside``: no stage looked at is outside. ``hidden``: the output is outside when it is shown alone, and the
    error cannot be found when stages are shown beside it: exposing them changes what the backend computes."""
    first: str | None
    """The stage at which the error leaves the tolerance: it is outside, and every stage it reads is inside."""
    origins: tuple[str, ...]
    """Every such stage that was found, ``first`` included, in network order; a network of several branches can have
    several."""
    alone: Measure
    """The output with nothing else shown."""
    measured: Mapping[str, Measure]
    """Every stage that was looked at, as it was in the last look at it."""
    runs: int
    """Runs of the candidate."""
    strategy: Strategy
    """How it was found."""


def scan(stages: Sequence[Stage], evaluate: Evaluate) -> Found:
    """Look at all stages at once. Names the first in network order that is outside; assumes nothing."""
    output = stages[-1].name
    alone = evaluate([output])[output]
    measured = evaluate([stage.name for stage in stages])
    outside = {name for name, result in measured.items() if not result.inside}
    origins = tuple(stage.name for stage in stages if stage.name in outside and outside.isdisjoint(stage.after))
    if origins:
        return Found("outside", origins[0], origins, alone, measured, 2, "scan")
    return Found("inside" if alone.inside else "hidden", None, (), alone, measured, 2, "scan")


def bisect(stages: Sequence[Stage], evaluate: Evaluate) -> Found:
    """Halve what may hold the origin, one stage per look; for backends where every shown stage costs a build.

    Searches only when the output is outside. To halve, it takes a stage that is inside for a sign that everything it
    is made of is inside. The answer does not rest on that: the found stage and all it reads are looked at together at
    the end, and the search goes on upwards from one of these that is outside. What does rest on it is that no other
    origin lies further up. With several origins, one of them is found.
    """
    ancestors = _ancestors(stages)
    reads = {stage.name: stage.after for stage in stages}
    measured: dict[str, Measure] = {}
    runs = 0

    def see(*names: str) -> Mapping[str, Measure]:
        nonlocal runs
        runs += 1
        results = evaluate(names)
        measured.update(results)
        return results

    suspect = stages[-1].name
    alone = see(suspect)[suspect]
    if alone.inside:
        return Found("inside", None, (), alone, measured, runs, "bisect")
    while True:
        unknown = {name for name in ancestors[suspect] if name not in measured}
        while unknown:
            middle = _halving(unknown, ancestors, stages)
            if see(middle)[middle].inside:
                unknown -= {middle} | ancestors[middle]
            else:
                suspect = middle
                unknown &= ancestors[middle]
        together = see(suspect, *reads[suspect])
        if together[suspect].inside:
            return Found("hidden", None, (), alone, measured, runs, "bisect")
        upwards = next((name for name in reads[suspect] if not together[name].inside), None)
        if upwards is None:
            return Found("outside", suspect, (suspect,), alone, measured, runs, "bisect")
        suspect = upwards


def scan_then_bisect(stages: Sequence[Stage], evaluate: Evaluate) -> Found:
    """All stages at once; where exposing them all hides the error, one by one, which changes less of the candidate."""
    found = scan(stages, evaluate)
    if found.verdict != "hidden":
        return found
    halved = bisect(stages, evaluate)
    return replace(halved, runs=found.runs + halved.runs)


STRATEGIES: dict[str, Callable[[Sequence[Stage], Evaluate], Found]] = {
    "auto": scan_then_bisect,
    "scan": scan,
    "bisect": bisect,
}
"""By name."""


def _ancestors(stages: Sequence[Stage]) -> dict[str, frozenset[str]]:
    """Stage -> every stage it is made of; stages come in network order."""
    found: dict[str, frozenset[str]] = {}
    for stage in stages:
        found[stage.name] = frozenset(stage.after).union(*(found[name] for name in stage.after))
    return found


def _halving(unknown: set[str], ancestors: Mapping[str, frozenset[str]], stages: Sequence[Stage]) -> str:
    """The stage after which the fewest stay unknown at worst; the first of equals."""

    def left(name: str) -> int:
        above = len(unknown & ancestors[name])
        return max(above, len(unknown) - 1 - above)

    return min((stage.name for stage in stages if stage.name in unknown), key=left)
