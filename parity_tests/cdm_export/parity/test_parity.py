"""The parity check itself: it must fail on everything that is wrong, in the right words."""

import numpy as np
import pytest

from cdm_export.parity.compare import compare, compare_inputs, summarize
from cdm_export.parity.gates import GATES
from cdm_export.parity.normalization import near_edges


@pytest.fixture
def reference(contract):
    """Raw inverse depth of a slope from 0.6 to 3.5 m with a step in it."""
    height, width = contract.network.height, contract.network.width
    depth = np.linspace(0.6, 3.5, width, dtype=np.float32)[None].repeat(height, 0)
    depth[height // 2 :] *= 0.7
    return (1 / depth)[None, None]


def check(contract, reference, candidate, precision="fp32"):
    return compare("frame", reference, candidate.astype(np.float32), contract, precision)


def test_equal_passes(contract, reference):
    parity = check(contract, reference, reference)
    assert parity.verdict == "passed" and parity.depth.max == 0 and parity.comparable == 1.0
    assert parity.network.psnr_db is None and parity.network.cosine == pytest.approx(1)


def test_statistics_are_those_of_a_known_error(contract, reference):
    parity = check(contract, reference, reference / 1.002, "fp16")  # 0.2 % farther everywhere
    assert parity.verdict == "failed" and "mean relative depth error" in parity.reason
    assert parity.depth.mean == pytest.approx(2e-3, rel=1e-3)
    assert parity.depth.mean_mm == pytest.approx(2.0 * np.mean(1 / reference), rel=0.02)
    assert parity.depth.over_1mm == pytest.approx(np.mean(1 / reference > 0.5), abs=0.02)
    assert sum(bin_.pixels for bin_ in parity.by_range.values()) == parity.depth.pixels


@pytest.mark.parametrize("precision", GATES)
def test_limits_of_every_precision(contract, reference, precision):
    gate = GATES[precision]
    assert check(contract, reference, reference / (1 + 0.9 * gate.mean), precision).verdict == "passed"
    assert check(contract, reference, reference / (1 + 1.1 * gate.mean), precision).verdict == "failed"
    spiked = reference.copy()
    spiked[..., ::25] /= 1 + 3 * gate.p99  # 4 % of the columns: the 99th percentile sees them
    failed = check(contract, reference, spiked, precision)
    assert failed.verdict == "failed"


def test_one_pixel_off_breaks_the_largest_error_of_fp32_only(contract, reference):
    candidate = reference.copy()
    candidate[0, 0, 5, 5] *= 1.002
    assert "max relative" in check(contract, reference, candidate).reason
    assert check(contract, reference, candidate, "fp16").verdict == "passed"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_no_number_fails(contract, reference, value):
    candidate = reference.copy()
    candidate[0, 0, 3, 3] = value
    for precision in GATES:
        parity = check(contract, reference, candidate, precision)
        assert parity.verdict == "failed" and "1 NaN or Inf" in parity.reason


def test_reference_that_is_no_number_fails(contract, reference):
    broken = reference.copy()
    broken[0, 0, 3, 3] = np.nan
    assert check(contract, broken, broken).verdict == "failed"
    zero = reference.copy()
    zero[0, 0, 3, 3] = 0
    assert check(contract, broken, zero).verdict == "failed"


def test_all_zero_network_fails(contract, reference):
    for precision in GATES:
        parity = check(contract, reference, np.zeros_like(reference), precision)
        assert parity.verdict == "failed" and "valid mask differs in 100.00%" in parity.reason
    both = check(contract, np.zeros_like(reference), np.zeros_like(reference))
    assert both.verdict == "inconclusive" and "only 0.0%" in both.reason


def test_out_of_range_network_is_inconclusive(contract, reference):
    far = reference / 100
    parity = check(contract, far, far)
    assert parity.verdict == "inconclusive"
    assert parity.reference_depth is not None and parity.reference_depth[0] > contract.far


def test_lost_pixels_fail_but_not_those_at_the_threshold(contract, reference):
    lost = reference.copy()
    lost[..., :3, :3] = 0
    parity = check(contract, reference, lost)
    assert parity.verdict == "failed" and parity.mask_disagreement > 0
    at_threshold = reference.copy()
    at_threshold[..., 0, :] = (1 + 1e-6) / contract.far
    other_side = at_threshold.copy()
    other_side[..., 0, :] = (1 - 1e-6) / contract.far
    parity = check(contract, at_threshold, other_side)
    assert parity.mask_disagreement == 0 and parity.verdict == "passed"


def test_under_a_tenth_comparable_is_inconclusive(contract, reference):
    sparse = np.zeros_like(reference)
    sparse[..., : int(0.08 * reference.shape[-1])] = 1.0
    assert check(contract, sparse, sparse).verdict == "inconclusive"


def test_edges_are_where_depth_jumps():
    depth = np.full((20, 20), 1.0, np.float32)
    depth[:, 10:] = 1.2
    edges = near_edges(depth, depth > 0)
    assert edges[:, 8:12].all() and not edges[:, :8].any() and not edges[:, 12:].any()
    depth[:, 10:] = 0
    assert not near_edges(depth, depth > 0).any(), "a hole is not an edge"


def test_inputs_that_differ(contract, reference):
    one = {"image": np.ones((1, 3, 2, 2), np.float32)}
    assert compare_inputs(one, {"image": one["image"] + np.float32(0.5)}) == pytest.approx(0.5)
    assert compare_inputs(one, {}) is None
    assert compare_inputs(one, {"image": one["image"] * np.nan}) is None
    assert compare("frame", reference, reference, contract, "fp32", preprocessing=None).verdict == "failed"
    parity = compare("frame", reference, reference, contract, "fp32", preprocessing=1e-3)
    assert parity.verdict == "failed" and "network inputs differ" in parity.reason


def test_8_bit_inputs_may_differ_by_what_a_rounding_decides():
    one = {"image": np.full((1, 3, 2, 2), 7, np.uint8)}
    assert compare_inputs(one, {"image": one["image"] - 1}) == 0
    assert compare_inputs(one, {"image": one["image"] + 3}) == pytest.approx(2 / 255)
    assert compare_inputs(one, {"image": one["image"].astype(np.float32)}) is None


def test_summary_takes_the_worst_frame_and_no_frame_is_no_pass(contract, reference):
    good = check(contract, reference, reference)
    bad = check(contract, reference, reference * 1.01)
    assert summarize("b", [good, good], "r").verdict == "passed"
    summary = summarize("b", [good, bad], "r")
    assert summary.verdict == "failed" and summary.mean == bad.depth.mean
    assert summarize("b", [], "r").verdict == "inconclusive"
