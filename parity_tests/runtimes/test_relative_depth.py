"""Relative inverse depth: gates on its range, and meters only when somebody says how."""

import numpy as np
import pytest

import cdm_export
from cdm_export.parity.compare import compare, summarize
from cdm_export.parity.gates import GATES
from cdm_export.predict.pictures import COLORS, prediction_picture
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import Semantics
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import DepthResult, Frame, Health, Timing
from cdm_export.runtimes.metric_scale import KnownRange, SensorAlignment, fit
from parity_tests.conftest import CAMERA

MODEL, METRIC = "depth-anything-v2-vits", "depth-anything-v2-metric-indoor-vits"


# --- gates ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def relative():
    return get_variant(MODEL).contract(MODEL, CAMERA, 70)


@pytest.fixture
def reference(relative):
    """A slope from 3 to 13 with a step in it."""
    width, height = relative.network
    values = np.linspace(3, 13, width, dtype=np.float32)[None].repeat(height, 0)
    values[height // 2 :] *= 0.9
    return values[None, None]


def check(contract, reference, candidate, precision="fp32"):
    return compare("frame", reference, candidate.astype(np.float32), contract, precision)


def test_errors_are_shares_of_the_range(relative, reference):
    low, high = np.percentile(reference, (1, 99))
    off = check(relative, reference, reference + 0.002 * (high - low), "fp16")
    assert off.verdict == "failed" and "mean error as a share of the output's range" in off.reason
    assert off.depth.mean == pytest.approx(2e-3, rel=0.05) and off.depth.pixels == 160 * 120
    assert off.depth.mean_mm is off.depth.over_1mm is off.reference_depth is None
    assert sum(part.pixels for part in off.by_range.values()) == off.depth.pixels
    assert "of the output's range" in str(summarize("b", [off], "r")) and " mm" not in str(summarize("b", [off], "r"))


@pytest.mark.parametrize("precision", GATES)
def test_limits_hold_whatever_scale_and_shift(relative, reference, precision):
    low, high = np.percentile(reference, (1, 99))
    for scale, shift in ((1, 0), (100, 0)) if precision == "fp32" else ((1, 0), (100, 0), (1, 1000)):
        moved, limit = scale * reference.astype(np.float64) + shift, GATES[precision].mean * scale * (high - low)
        given = moved.astype(np.float32)
        assert check(relative, given, moved + 0.9 * limit, precision).verdict == "passed"
        assert check(relative, given, moved + 1.2 * limit, precision).verdict == "failed"


def test_what_must_not_pass(relative, reference):
    for precision in GATES:
        assert check(relative, reference, 0 * reference, precision).verdict == "failed"
        constant = check(relative, 0 * reference, 0 * reference, precision)
        assert constant.verdict == "inconclusive" and "not a number" in constant.reason
        broken = reference.copy()
        broken[0, 0, 3, 3] = np.nan
        assert check(relative, reference, broken, precision).verdict == "failed"
    outlier = reference.copy()
    outlier[0, 0, 0, 0] = 1e6  # one pixel must not make the range so large that nothing is an error
    off = reference * np.float32(1.01)
    off[0, 0, 0, 0] = 1e6
    assert check(relative, outlier, off, "fp16").verdict == "failed"


def test_metric_models_are_gated_in_meters():
    contract = get_variant(METRIC).contract(METRIC, CAMERA, 70)
    meters = np.linspace(0.5, 19, contract.network.width, dtype=np.float32)[None].repeat(contract.network.height, 0)
    depth = meters[None, None]
    off = check(contract, depth, depth * 1.002, "fp16")
    assert off.verdict == "failed" and off.depth.mean == pytest.approx(2e-3, rel=1e-3) and off.depth.mean_mm > 10
    assert off.reference_depth == pytest.approx((0.7, 18.8), abs=0.1)
    at_far = depth.copy()
    at_far[..., 0, :], other = 20 * (1 - 1e-6), depth.copy()
    other[..., 0, :] = 20 * (1 + 1e-6)
    parity = check(contract, at_far, other)
    assert parity.mask_disagreement == 0 and parity.verdict == "passed"
    lost = depth.copy()
    lost[..., :9, :9] = 0
    assert "valid mask" in check(contract, depth, lost).reason


# --- to meters --------------------------------------------------------------------------------------------------------


def result_of(values, valid=None) -> DepthResult:
    values = np.asarray(values, np.float32)
    valid = np.ones(values.shape, bool) if valid is None else valid
    health = Health(0.0, float(valid.mean()), None, None)
    return DepthResult(values, valid, Semantics.RELATIVE_INVERSE_DEPTH, "", Timing(0, 0, 0), health)


@pytest.fixture
def scene():
    """True depth 0.6 to 5 m, a relative prediction of it, and a frame with the sensor's depth."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.6, 5.0, (60, 80)).astype(np.float32)
    relative = ((1 / depth - 0.05) / 0.03).astype(np.float32)
    return depth, result_of(relative), Frame(np.zeros((60, 80, 3), np.uint8), depth)


def test_without_a_scale_there_are_no_meters(scene):
    with pytest.raises(InputError, match="no metric scale") as caught:
        _ = scene[1].depth_m
    assert "KnownRange" in caught.value.next_step and cdm_export.KnownRange is KnownRange


def test_known_range_is_the_formula(scene):
    _, relative, frame = scene
    values = relative.values.astype(np.float64)
    stretched = (values - values.min()) / (values.max() - values.min())
    made = KnownRange(0.6, 5.0)(relative, frame)
    assert np.allclose(made.depth_m, 1 / (stretched * (1 / 0.6 - 1 / 5.0) + 1 / 5.0), rtol=1e-5)
    assert made.valid.all() and made.depth_m.min() == pytest.approx(0.6) and made.depth_m.max() == pytest.approx(5.0)
    assert "0.6 to 5 m" in made.scaled and relative.unit == ""


@pytest.mark.parametrize(("near", "far"), [(0, 1), (-1, 1), (2, 1), (1, 1), (1, float("inf")), (float("nan"), 1)])
def test_ranges_that_are_none(near, far):
    with pytest.raises(InputError, match="from near to far"):
        KnownRange(near, far)


def test_alignment_finds_scale_and_shift_through_holes_noise_and_outliers(scene):
    depth, relative, frame = scene
    rng = np.random.default_rng(1)
    sensor = depth * rng.normal(1, 0.005, depth.shape).astype(np.float32)
    wrong = rng.random(depth.shape)
    sensor[wrong < 0.25] = rng.uniform(0.3, 6.0, (wrong < 0.25).sum())
    sensor[(wrong > 0.3) & (wrong < 0.5)] = 0
    sensor[wrong > 0.97] = np.nan
    made = SensorAlignment()(relative, Frame(frame.rgb, sensor))
    assert made.valid.all() and np.abs(made.depth_m / depth - 1).max() < 0.02
    assert made.unit == "m" and "aligned to the sensor" in made.scaled
    least_squares = np.polyfit(relative.values[sensor > 0], 1 / sensor[sensor > 0], 1)
    naive = 1 / np.polyval(least_squares, relative.values)
    assert np.abs(naive / depth - 1).max() > 0.1, "outliers that hurt nobody prove nothing"


def test_alignment_is_the_same_every_time(scene):
    given, wanted = scene[1].values.ravel(), 1 / scene[0].ravel()
    assert fit(given, wanted) == fit(given, wanted) == pytest.approx((0.03, 0.05), rel=1e-4)


def test_what_alignment_makes_farther_than_far_is_invalid(scene):
    depth, relative, frame = scene
    made = SensorAlignment(far=3.0)(relative, frame)
    assert np.array_equal(made.valid, depth < 3.0) and (made.depth_m[depth > 3.001] == 0).all()
    assert made.health.valid_share == pytest.approx(made.valid.mean())


def test_alignment_refuses(scene):
    depth, relative, frame = scene
    rgb = frame.rgb
    unrelated = np.random.default_rng(2).uniform(0.6, 5.0, depth.shape).astype(np.float32)
    backwards = (1 / (2 - 1 / depth)).astype(np.float32)
    cases = {
        "the frame has none": (relative, None),
        "has 0": (relative, np.zeros_like(depth)),
        "up to 6 m, the depth image has 0": (relative, depth * 100),
        "no scale brings": (relative, unrelated),
        "they are at one depth": (relative, np.full_like(depth, 1.5)),
        "or of another scene": (relative, np.where(backwards > 0, backwards, 0).astype(np.float32)),
        "no valid pixel": (result_of(relative.values, np.zeros(depth.shape, bool)), depth),
    }
    for words, (given, sensor) in cases.items():
        with pytest.raises(InputError, match=words):
            SensorAlignment()(given, Frame(rgb, sensor))
    with pytest.raises(InputError, match="same everywhere"):
        KnownRange(1, 2)(result_of(np.ones((60, 80))), frame)
    with pytest.raises(InputError, match="meters already"):
        KnownRange(1, 2)(KnownRange(1, 2)(relative, frame), frame)


@pytest.mark.parametrize("colors", [name for name in COLORS if name != "turbo"])
def test_near_is_bright_in_meters_and_without(colors):
    rgb, values = np.zeros((120, 160, 3), np.uint8), np.linspace(1, 9, 160, dtype=np.float32)[None].repeat(120, 0)
    for unit in ("m", "", "px"):
        picture = prediction_picture(rgb, values, unit, "x", colors=colors).astype(int)
        shown = picture[40:100, picture.shape[1] // 2 :][:, :160]
        assert (shown[:, 20:30].mean() > shown[:, 130:140].mean()) == (unit == "m")
