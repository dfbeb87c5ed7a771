"""The search for the first stage outside, on synthetic networks, and the measure it goes by."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_export.bisect.measures import Measure, measure
from cdm_export.bisect.search import bisect, scan, scan_then_bisect
from cdm_export.bisect.stages import Stage
from cdm_export.runtimes.errors import ParityError


@st.composite
def networks(draw):
    """Stages in order, each reading some before it; everything reaches the last."""
    count = draw(st.integers(1, 30))
    reads = [draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set() for index in range(count)]
    unread = set(range(count - 1)).difference(*reads)
    reads[-1] |= unread
    return [Stage(f"s{i}", "all", tuple(f"s{j}" for j in sorted(reads[i]))) for i in range(count)]


def chain(count):
    return [Stage(f"s{i}", "all", (f"s{i - 1}",) if i else ()) for i in range(count)]


def spreading(stages, origins):
    """Stages outside when the error begins at ``origins`` and never fades."""
    outside = set()
    for stage in stages:
        if stage.name in origins or not outside.isdisjoint(stage.after):
            outside.add(stage.name)
    return outside


def result(inside):
    relative = 1e-6 if inside else 1e-1
    return Measure(relative=relative, largest_difference=1, largest_reference=1, not_finite=0, inside=inside)


def looks_at(outside):
    return lambda names: {name: result(name not in outside) for name in names}


@given(st.data(), networks())
def test_both_name_the_only_origin(data, stages):
    origin = data.draw(st.sampled_from(stages)).name
    outside = spreading(stages, {origin})
    for search in (scan, bisect):
        found = search(stages, looks_at(outside))
        assert (found.verdict, found.first, found.origins) == ("outside", origin, (origin,))


@given(st.data(), networks())
def test_several_origins(data, stages):
    origins = data.draw(st.sets(st.sampled_from([stage.name for stage in stages]), min_size=1))
    outside = spreading(stages, origins)
    true = [stage.name for stage in stages if stage.name in outside and outside.isdisjoint(stage.after)]
    assert list(scan(stages, looks_at(outside)).origins) == true
    assert bisect(stages, looks_at(outside)).first in true


@given(st.data(), networks())
def test_an_error_that_fades_does_not_mislead(data, stages):
    """Whatever is outside: what is named is outside and all it reads is inside, measured."""
    outside = data.draw(st.sets(st.sampled_from([stage.name for stage in stages]))) | {stages[-1].name}
    for search in (scan, bisect):
        found = search(stages, looks_at(outside))
        after = next(stage.after for stage in stages if stage.name == found.first)
        assert not found.measured[found.first].inside
        assert all(found.measured[name].inside for name in after)


@given(networks())
def test_nothing_outside(stages):
    for search in (scan, bisect):
        found = search(stages, looks_at(set()))
        assert (found.verdict, found.first, found.origins) == ("inside", None, ())


@pytest.mark.parametrize("count", [1, 2, 50, 1000])
def test_bisect_halves_a_chain(count):
    for origin in {0, count // 3, count - 1}:
        stages = chain(count)
        found = bisect(stages, looks_at({f"s{i}" for i in range(origin, count)}))
        assert found.first == f"s{origin}"
        assert found.runs <= math.ceil(math.log2(count + 1)) + 2


def test_an_error_that_hides_when_it_is_looked_at_is_no_pass():
    stages = chain(8)

    def evaluate(names):
        return {name: result(len(names) > 1 or name != "s7") for name in names}

    for search in (scan, bisect, scan_then_bisect):
        found = search(stages, evaluate)
        assert (found.verdict, found.first) == ("hidden", None)


@pytest.mark.parametrize("origin", [0, 3, 7])
def test_what_hides_from_a_scan_is_bisected(origin):
    """As a fusion that is wrong and cannot happen any more once many of its stages are shown."""
    stages = chain(8)

    def evaluate(names):
        return {name: result(len(names) > 2 or int(name[1:]) < origin) for name in names}

    assert scan(stages, evaluate).verdict == "hidden"
    found = scan_then_bisect(stages, evaluate)
    assert (found.verdict, found.first, found.strategy) == ("outside", f"s{origin}", "bisect")
    assert found.runs == bisect(stages, evaluate).runs + 2


def test_what_a_scan_shows_is_not_searched_again():
    stages = chain(8)
    found = scan_then_bisect(stages, looks_at({"s5", "s6", "s7"}))
    assert (found.first, found.strategy, found.runs) == ("s5", "scan", 2)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_measure():
    reference = np.array([3.0, -4.0], np.float32)
    got = measure("x", reference, reference + np.float32(0.5), 0.2)
    assert got.relative == pytest.approx(math.hypot(0.5, 0.5) / 5)
    assert (got.largest_difference, got.largest_reference, got.not_finite, got.inside) == (0.5, 4.0, 0, True)
    assert not measure("x", reference, reference + np.float32(0.5), 0.1).inside


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_outside(value):
    got = measure("x", np.ones(3, np.float32), np.array([1, value, 1], np.float32), 1e9)
    assert (got.not_finite, got.relative, got.inside) == (1, None, False)


def test_a_reference_of_zeros():
    zeros = np.zeros(3, np.float32)
    assert measure("x", zeros, zeros, 1e-5).inside
    got = measure("x", zeros, zeros + np.float32(1e-9), 1e9)
    assert (got.relative, got.inside) == (None, False)


def test_large_values_do_not_overflow():
    large = np.full(4, 3e38, np.float32)
    assert measure("x", large, -large, 1).relative == pytest.approx(2)


def test_what_cannot_be_compared_is_an_error_that_names_the_stage():
    with pytest.raises(ParityError, match=r"'some\.block' is \[2\] in the candidate, \[3\] in the reference"):
        measure("some.block", np.ones(3), np.ones(2), 1)
    with pytest.raises(ParityError, match=r"'some\.block' holds NaN or Inf in the reference"):
        measure("some.block", np.array([np.nan]), np.ones(1), 1)
