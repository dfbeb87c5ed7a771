"""Protocols: their crops to the pixel, what counts, and a prediction judged as their sources judge it."""

import numpy as np
import pytest

from cdm_export.evaluate.metrics import AlignmentKind, DepthMetrics, StereoMetrics, depth_metrics
from cdm_export.evaluate.protocols import (
    DEPTH_PROTOCOLS,
    EIGEN_KITTI,
    EIGEN_NYU,
    GARG,
    STEREO_PROTOCOLS,
    get_protocol,
)
from cdm_export.runtimes.errors import InputError

ALL = {**DEPTH_PROTOCOLS, **STEREO_PROTOCOLS}


def random_depth(shape, seed=0, high=100.0):
    return np.random.default_rng(seed).uniform(0.5, high, shape)


@pytest.mark.parametrize("name", ALL)
def test_protocols_say_what_they_are(name):
    protocol = get_protocol(name)
    assert protocol.name == name and protocol.title and protocol.source
    if name in STEREO_PROTOCOLS:
        assert set(protocol.headline) <= set(StereoMetrics.__dataclass_fields__)
    else:
        assert protocol.alignment in AlignmentKind.__args__ and protocol.truth_range[0] < protocol.truth_range[1]
        assert (protocol.shown is None) == (protocol.covers is None)


def test_unknown_name():
    with pytest.raises(InputError, match="Did you mean 'kitti-eigen'"):
        get_protocol("kitti-eigenn")


@pytest.mark.parametrize(
    ("crop", "shape", "rows", "columns"),
    [
        (GARG, (375, 1242), (153, 371), (44, 1197)),
        (GARG, (370, 1226), (151, 366), (44, 1181)),
        (EIGEN_KITTI, (375, 1242), (124, 342), (44, 1197)),
        (EIGEN_NYU, (480, 640), (45, 471), (41, 601)),
    ],
)
def test_crops_to_the_pixel(crop, shape, rows, columns):
    mask = crop.mask(shape)
    expected = np.zeros(shape, bool)
    expected[rows[0] : rows[1], columns[0] : columns[1]] = True
    assert (mask == expected).all()


def test_crop_for_another_size():
    with pytest.raises(InputError, match="made for maps of 640x480, got 320x240"):
        EIGEN_NYU.mask((240, 320))


def test_truth_beyond_the_cap_does_not_count():
    truth = np.full((375, 1242), 50.0)
    truth[200, 100:104] = 0, 1e-3, 80, 79.9
    protocol = get_protocol("kitti-eigen")
    mask = protocol.mask(truth)
    assert mask[200, 100:104].tolist() == [False, False, False, True]
    assert not mask[:153].any() and mask[153:200, 44:1197].all()
    assert get_protocol("kitti-eigen-benchmark").mask(truth)[200, 100:104].tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("name", "shape", "middle"),
    [("kitti-eigen", (40, 60), "lower"), ("kitti-eigen-monodepth2", (40, 60), "mean"), ("make3d", (55, 305), "lower")],
)
def test_judged_as_the_source_does(name, shape, middle):
    """Crop, median, limits, in that order, written out once more."""
    protocol = get_protocol(name)
    truth, prediction = random_depth(shape), random_depth(shape, 1, 3.0)
    low, high = protocol.truth_range
    mask = (truth > low) & (truth < high)
    if name == "make3d":
        mask[:17] = mask[38:] = False
    else:
        rows = int(0.40810811 * shape[0]), int(0.99189189 * shape[0])
        columns = int(0.03594771 * shape[1]), int(0.96405229 * shape[1])
        inside = np.zeros(shape, bool)
        inside[rows[0] : rows[1], columns[0] : columns[1]] = True
        mask &= inside
    exact, guess = np.sort(truth[mask]), np.sort(prediction[mask])
    half = (len(exact) - 1) // 2
    ratio = exact[half] / guess[half] if middle == "lower" else np.median(exact) / np.median(guess)
    scaled = np.clip(prediction * ratio, low, high)
    got, aligned = protocol.judge(prediction, truth)
    assert aligned.scale == pytest.approx(ratio, rel=1e-12) and got.pixels == mask.sum()
    assert got == depth_metrics(scaled, truth, mask)


def test_metric_predictions_are_not_scaled():
    truth = random_depth((40, 60), high=70)
    got, aligned = get_protocol("kitti-eigen").judge(2 * truth, truth, metric=True)
    assert aligned.scale == 1 and got.a1 < 1
    assert get_protocol("kitti-eigen").judge(2 * truth, truth)[0].abs_rel == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "shown"), [("nyuv2-bdedepth", (480, 640), (427, 561)), ("make3d", (55, 305), (21, 305)),
                                 ("cityscapes", (1024, 2048), (768, 2048))]
)  # fmt: skip
def test_predictions_of_a_part(name, shape, shown):
    protocol = get_protocol(name)
    truth, part = random_depth(shape, high=9.0), random_depth(shown, 1, 9.0)
    whole = protocol.placed(part, shape)
    assert whole.shape == shape and np.isfinite(whole).sum() == part.size
    got, _ = protocol.judge(whole, truth)
    assert isinstance(got, DepthMetrics) and got.pixels <= part.size
    assert (np.isfinite(whole) | ~protocol.mask(truth)).all()
    with pytest.raises(InputError, match="expected"):
        protocol.placed(part[1:], shape)


def test_stereo_masks():
    protocol = get_protocol("middlebury")
    truth = np.array([[np.inf, 5.0, 6.0, 0.0]])
    visible = np.array([[True, True, False, True]])
    assert protocol.mask(truth).tolist() == [[False, True, True, False]]
    assert protocol.judge(np.full((1, 4), 5.5), truth, visible).epe == 0.5
    with pytest.raises(InputError, match="mask has shape"):
        protocol.mask(truth, visible.T)
    with pytest.raises(InputError, match="no pixel"):
        protocol.judge(truth, np.zeros_like(truth))
