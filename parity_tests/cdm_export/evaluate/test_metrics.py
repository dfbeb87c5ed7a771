"""Metrics by hand, by their published formulas in plain loops, and what they must not depend on."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdm_export.evaluate.metrics import (
    DepthMetrics,
    align,
    depth_metrics,
    mean_over_images,
    mean_over_pixels,
    scale_and_shift,
    stereo_metrics,
    stereo_regions,
    truth_mask,
)
from cdm_export.runtimes.errors import InputError

DEPTHS = st.floats(0.125, 80.0, width=32)
ALIGNMENTS = ("none", "median", "lower_median", "scale", "scale_shift_depth", "scale_shift_inverse")


def row(*values):
    return np.array([values], dtype=np.float32)


def everywhere(values):
    return np.ones(values.shape, dtype=bool)


@st.composite
def pairs(draw, low=1):
    """Prediction, truth and a mask with at least ``low`` pixels."""
    shape = draw(st.tuples(st.integers(2, 5), st.integers(2, 6)))
    prediction, truth = (draw(arrays(np.float32, shape, elements=DEPTHS)) for _ in range(2))
    mask = draw(arrays(np.bool_, shape))
    mask.flat[: max(low, 1)] = True
    return prediction, truth, mask


def close(got, expected, relative=1e-9):
    return all(asdict(got)[name] == pytest.approx(value, rel=relative, abs=1e-12) for name, value in expected.items())


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_depth_by_hand():
    # Errors 1, -1, 0 m; ratios 2, 4/3, 1.
    got = depth_metrics(row(2, 3, 5, 9), row(1, 4, 5, 1), np.array([[True, True, True, False]]))
    ln2, ln43 = math.log(2), math.log(4 / 3)
    squares = (ln2**2 + ln43**2) / 3
    assert got.pixels == 3
    assert close(
        got,
        {
            "abs_rel": (1 + 0.25) / 3,
            "sq_rel": (1 + 0.25) / 3,
            "rmse": math.sqrt(2 / 3),
            "rmse_log": math.sqrt(squares),
            "rmse_log10": math.sqrt((math.log10(2) ** 2 + math.log10(4 / 3) ** 2) / 3),
            "log10": (math.log10(2) + math.log10(4 / 3)) / 3,
            "silog_root_x100": 100 * math.sqrt(squares - ((ln2 - ln43) / 3) ** 2),
            "a05": 1 / 3,
            "a1": 1 / 3,
            "a2": 2 / 3,
            "a3": 2 / 3,
        },
    )


def test_stereo_by_hand():
    # Errors 0.5, 0.75, 2.5, 4, 8 px; of these 4 is 4 % of the truth, and 8 is 40 %.
    truth = row(10, 10, 10, 100, 20)
    got = stereo_metrics(row(10.5, 9.25, 12.5, 96, 28), truth, everywhere(truth))
    assert got.pixels == 5
    assert close(
        got,
        {
            "epe": 15.75 / 5,
            "rms": math.sqrt((0.25 + 0.5625 + 6.25 + 16 + 64) / 5),
            "bad_05": 0.8,
            "bad_1": 0.6,
            "bad_2": 0.6,
            "bad_3": 0.4,
            "bad_4": 0.2,
            "d1": 0.2,
        },
    )


@pytest.mark.parametrize(
    ("truth", "error", "outlier"),
    [
        (10.0, 3.0, 0),  # as large as the limit, which is not above it
        (10.0, 3.0 + 2**-20, 1),
        (100.0, 5.0, 0),  # exactly 5 %
        (100.0, 5.0 + 2**-16, 1),
        (100.0, 4.0, 0),  # above 3 px alone
        (20.0, 2.0, 0),  # above 5 % alone
        (60.0, 3.0, 0),  # both limits at once
        (60.0, 3.0 + 2**-18, 1),
    ],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_d1_at_its_limits(truth, error, outlier, sign):
    got = stereo_metrics(row(truth + sign * error), row(truth), np.array([[True]]))
    assert got.d1 == outlier
    assert got.bad_3 == (error > 3)


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0, 3.0, 4.0])
def test_bad_pixels_at_their_limits(limit):
    name = "bad_05" if limit == 0.5 else f"bad_{limit:.0f}"
    truth = row(64, 64)
    at = stereo_metrics(truth + np.float32(limit), truth, everywhere(truth))
    above = stereo_metrics(truth + row(limit, limit + 2**-16), truth, everywhere(truth))
    assert (asdict(at)[name], asdict(above)[name]) == (0, 0.5)


def test_ratio_at_its_limits():
    assert depth_metrics(row(1.25), row(1), np.array([[True]])).a1 == 0
    assert depth_metrics(row(0.8125), row(1), np.array([[True]])).a1 == 1  # 1.23


def test_regions():
    truth = row(10, 10, 10, 0)
    objects = np.array([[True, False, False, False]])
    got = stereo_regions(row(20, 11, 10, 50), truth, truth_mask(truth), objects)
    assert got.all.d1 == pytest.approx(1 / 3)
    assert got.foreground is not None and got.background is not None
    assert (got.foreground.d1, got.foreground.pixels) == (1, 1)
    assert (got.background.d1, got.background.epe, got.background.pixels) == (0, 0.5, 2)
    assert stereo_regions(truth + 1, truth, truth_mask(truth), ~everywhere(truth)).foreground is None


def test_means_over_images_and_pixels():
    one = stereo_metrics(row(5, 5), row(4, 4), np.array([[True, False]]))
    three = stereo_metrics(row(9, 9, 9), row(4, 4, 4), np.ones((1, 3), bool))
    assert mean_over_images([one, three]).epe == 3 and mean_over_images([one, three]).pixels == 4
    assert mean_over_pixels([one, three]).epe == 4
    together = stereo_metrics(row(5, 9, 9, 9), row(4, 4, 4, 4), np.ones((1, 4), bool))
    assert close(mean_over_pixels([one, three]), asdict(together))
    with pytest.raises(InputError, match="no image"):
        mean_over_images([])


def test_truth_mask():
    truth = row(np.nan, np.inf, -1, 0, 0.5, 10, 5)
    assert truth_mask(truth, 0.5, 10).tolist() == [[False] * 6 + [True]]
    assert truth_mask(truth).tolist() == [[False] * 4 + [True] * 3]


# --- the published formulas in plain loops ----------------------------------------------------------------------------


@given(pairs())
def test_depth_in_loops(case):
    prediction, truth, mask = case
    guess, exact = ([float(value) for value in each[mask]] for each in (prediction, truth))
    count = len(exact)
    logs = [math.log(d) - math.log(t) for d, t in zip(guess, exact, strict=True)]
    ratios = [max(d / t, t / d) for d, t in zip(guess, exact, strict=True)]
    mean = sum(logs) / count
    got = depth_metrics(prediction, truth, mask)
    assert close(
        got,
        {
            "abs_rel": sum(abs(d - t) / t for d, t in zip(guess, exact, strict=True)) / count,
            "sq_rel": sum((d - t) ** 2 / t for d, t in zip(guess, exact, strict=True)) / count,
            "rmse": math.sqrt(sum((d - t) ** 2 for d, t in zip(guess, exact, strict=True)) / count),
            "rmse_log": math.sqrt(sum(log**2 for log in logs) / count),
            "log10": sum(map(abs, logs)) / math.log(10) / count,
            "a1": sum(ratio < 1.25 for ratio in ratios) / count,
            "a2": sum(ratio < 1.25**2 for ratio in ratios) / count,
            "a3": sum(ratio < 1.25**3 for ratio in ratios) / count,
        },
    )
    assert got.silog_root_x100**2 == pytest.approx(1e4 * sum((log - mean) ** 2 for log in logs) / count, abs=1e-9)


# --- what they must not depend on -------------------------------------------------------------------------------------


@given(pairs(), st.randoms(use_true_random=False))
def test_order_of_pixels_does_not_matter(case, random):
    order = list(range(case[1].size))
    random.shuffle(order)
    moved = [each.ravel()[order].reshape(each.shape) for each in case]
    for metrics in (depth_metrics, stereo_metrics):
        assert close(metrics(*moved), asdict(metrics(*case)))


@given(pairs(), DEPTHS)
def test_pixels_outside_the_mask_do_not_matter(case, value):
    prediction, truth, mask = case
    other = np.where(mask, prediction, np.float32(value))
    hidden = np.where(mask, prediction, np.nan)
    nothing = np.where(mask, truth, 0)
    for metrics in (depth_metrics, stereo_metrics):
        assert metrics(other, truth, mask) == metrics(prediction, truth, mask) == metrics(hidden, nothing, mask)


@given(pairs(), st.floats(1e-3, 1e3))
@pytest.mark.parametrize("kind", ["median", "lower_median", "scale"])
def test_scale_does_not_matter_after_scaling(kind, case, factor):
    prediction, truth, mask = case
    before = align(prediction, truth, mask, kind)
    after = align(prediction.astype(np.float64) * factor, truth, mask, kind)
    np.testing.assert_allclose(after.depth, before.depth, rtol=1e-12)
    assert after.scale == pytest.approx(before.scale / factor, rel=1e-12) and after.shift == 0
    guess = depth_metrics(before.depth, truth, mask)
    assert guess.abs_rel == pytest.approx(depth_metrics(after.depth, truth, mask).abs_rel, rel=1e-9, abs=1e-12)


@given(pairs(), st.floats(1e-2, 1e2))
def test_silog_needs_no_scaling(case, factor):
    prediction, truth, mask = case
    scaled = depth_metrics(prediction.astype(np.float64) * factor, truth, mask)
    assert scaled.silog_root_x100 == pytest.approx(depth_metrics(prediction, truth, mask).silog_root_x100, abs=1e-6)


@given(pairs())
def test_of_itself_everything_is_perfect(case):
    _, truth, mask = case
    perfect = {"abs_rel": 0, "sq_rel": 0, "rmse": 0, "rmse_log": 0, "log10": 0, "silog_root_x100": 0}
    assert close(depth_metrics(truth, truth, mask), perfect | dict.fromkeys(("a05", "a1", "a2", "a3"), 1))
    assert close(stereo_metrics(truth, truth, mask), {"epe": 0, "rms": 0, "bad_05": 0, "d1": 0})


@given(pairs())
def test_metrics_keep_their_order(case):
    depth, stereo = depth_metrics(*case), stereo_metrics(*case)
    assert depth.a05 <= depth.a1 <= depth.a2 <= depth.a3
    assert stereo.bad_05 >= stereo.bad_1 >= stereo.bad_2 >= stereo.bad_3 >= max(stereo.bad_4, stereo.d1)
    assert stereo.epe <= stereo.rms * (1 + 1e-12)


# --- alignment --------------------------------------------------------------------------------------------------------


def test_medians_of_an_even_number():
    prediction, truth = row(1, 2, 4, 8), row(10, 20, 30, 40)
    assert align(prediction, truth, everywhere(truth), "median").scale == 25 / 3
    assert align(prediction, truth, everywhere(truth), "lower_median").scale == 10


@given(pairs(low=4), st.floats(0.01, 100), st.floats(-5, 5))
def test_scale_and_shift_are_found(case, scale, shift):
    truth, mask = case[1].astype(np.float64), case[2]
    if np.ptp(1 / truth[mask]) < 1e-3:
        return
    inverse = (1 / truth - shift) / scale
    got = align(inverse, truth, mask, "scale_shift_inverse", farthest=1e4)
    assert (got.scale, got.shift) == (pytest.approx(scale, rel=1e-6), pytest.approx(shift, rel=1e-6, abs=1e-6))
    np.testing.assert_allclose(got.depth, truth, rtol=1e-6)
    got = align((truth - shift) / scale, truth, mask, "scale_shift_depth")
    np.testing.assert_allclose(got.depth, truth, rtol=1e-6)


@given(pairs(low=3))
def test_least_squares_are_numpys(case):
    prediction, truth, mask = (each.astype(np.float64) if each.dtype != bool else each for each in case)
    values, target = prediction[mask], 1 / truth[mask]
    if np.ptp(values) < 0.1:
        return
    expected = np.linalg.lstsq(np.stack((values, np.ones_like(values)), 1), target, rcond=None)[0]
    assert scale_and_shift(values, target) == pytest.approx(tuple(expected), rel=1e-6, abs=1e-9)


def test_what_a_fit_puts_beyond_infinity():
    truth, inverse = row(1, 2, 50, 60), row(1, 0.5, -0.1, 0.1)
    got = align(inverse, truth, everywhere(truth), "scale_shift_inverse", farthest=80)
    assert got.depth[0, 2] == pytest.approx(80) and np.isfinite(got.depth).all()
    with pytest.raises(InputError, match="beyond infinity"):
        align(inverse, truth, everywhere(truth), "scale_shift_inverse")


@pytest.mark.parametrize("kind", ["scale_shift_depth", "scale_shift_inverse"])
@pytest.mark.parametrize("value", [0.0, 0.1, 7.3])
def test_a_constant_cannot_be_fitted(kind, value):
    truth = row(1, 2, 3)
    with pytest.raises(InputError, match="constant"):
        align(np.full_like(truth, value), truth, everywhere(truth), kind)


@pytest.mark.parametrize("kind", ["median", "lower_median", "scale"])
def test_nothing_cannot_be_scaled(kind):
    with pytest.raises(InputError, match="cannot be scaled"):
        align(row(0, 0, 0), row(1, 2, 3), np.ones((1, 3), bool), kind)


# --- what cannot be judged --------------------------------------------------------------------------------------------

BAD = [
    (row(1, 2), row(1, 2), np.zeros((1, 2), bool), "no pixel"),
    (row(1, 2, 3), row(1, 2), np.ones((1, 2), bool), r"prediction has shape \[1, 3\], the truth \[1, 2\]"),
    (row(1, 2), row(1, 2), np.ones((2, 1), bool), r"mask has shape \[2, 1\]"),
    (row(1, 2), row(1, 2), np.ones((1, 2), np.uint8), "mask is of booleans"),
    (row(1, 2)[0], row(1, 2)[0], np.ones(2, bool), "height, width"),
    (row(1, np.nan), row(1, 2), np.ones((1, 2), bool), "prediction is NaN or infinite at 1 of 2"),
    (row(-np.inf, np.inf), row(1, 2), np.ones((1, 2), bool), "prediction is NaN or infinite at 2 of 2"),
    (row(1, 2), row(1, np.inf), np.ones((1, 2), bool), "truth is NaN or infinite"),
    (row(1, 2), row(1, 0), np.ones((1, 2), bool), "0 or below at 1 pixels"),
]


@pytest.mark.parametrize(("prediction", "truth", "mask", "message"), BAD)
def test_what_cannot_be_judged(prediction, truth, mask, message):
    for metrics in (depth_metrics, stereo_metrics):
        with pytest.raises(InputError, match=message):
            metrics(prediction, truth, mask)
    for kind in ALIGNMENTS:
        with pytest.raises(InputError, match=message):
            align(prediction, truth, mask, kind)


def test_depth_of_zero_is_no_depth_but_a_disparity_of_zero_is_one():
    with pytest.raises(InputError, match="depth is 0 or below"):
        depth_metrics(row(0, 1), row(1, 1), np.ones((1, 2), bool))
    assert stereo_metrics(row(-1, 0), row(1, 1), np.ones((1, 2), bool)).epe == 1.5


def test_foreground_of_another_size():
    with pytest.raises(InputError, match="foreground has shape"):
        stereo_regions(row(1, 2), row(1, 2), np.ones((1, 2), bool), np.ones((2, 2), bool))


def test_sums_are_in_float64():
    """A million equal float32 numbers: naive sums in float32 are off by a percent."""
    truth = np.full((1000, 1000), 10, np.float32)
    got = depth_metrics(truth * np.float32(1.1), truth, everywhere(truth))
    assert got.abs_rel == pytest.approx(float(np.float32(10) * np.float32(1.1)) / 10 - 1, rel=1e-12)
    assert isinstance(got, DepthMetrics) and replace(got, pixels=1).pixels == 1
