"""One prediction against one truth: regions, scale, and what counts."""

import numpy as np
import pytest

from cdm_export.evaluate.data import Item
from cdm_export.evaluate.judge import Prediction, alignment_of, judge
from cdm_export.evaluate.protocols import FOLDER_DEPTH, FOLDER_STEREO
from cdm_export.runtimes.contract import Semantics
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources.base import SourceFrame

TRUTH = np.random.default_rng(0).uniform(1, 6, (20, 30)).astype(np.float32)


def item(truth=TRUTH, depth=None, visible=None):
    frame = Frame(np.zeros((*truth.shape, 3), np.uint8), depth=depth)
    return Item(SourceFrame("a", frame), truth, visible)


def judged(values, semantics=Semantics.METRIC_DEPTH, truth=TRUTH, asked=None, **rest):
    return judge(Prediction(values, semantics), item(truth, **rest), FOLDER_DEPTH, asked)


def test_inverse_depth_is_judged_as_meters():
    row = judged(1 / (TRUTH * 1.1), Semantics.INVERSE_DEPTH)["all"]
    assert row["abs_rel"] == pytest.approx(0.1, rel=1e-5) and row["pixels"] == TRUTH.size


def test_what_is_too_far_is_wrong_and_not_left_out():
    inverse = 1 / TRUTH
    inverse[0, 0] = -0.5
    row = judged(inverse, Semantics.INVERSE_DEPTH)["all"]
    assert row["pixels"] == TRUTH.size
    assert row["abs_rel"] == pytest.approx((1000 / TRUTH[0, 0] - 1) / TRUTH.size, rel=1e-4)


def test_nan_is_no_answer():
    values = TRUTH.copy()
    values[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN or infinite at 1"):
        judged(values)


def test_relative_depth_gets_scale_and_shift():
    assert judged(3 / TRUTH + 5, Semantics.RELATIVE_INVERSE_DEPTH)["all"]["abs_rel"] < 1e-6


def test_median_when_asked():
    assert judged(TRUTH * 2)["all"]["abs_rel"] == pytest.approx(1)
    assert judged(TRUTH * 2, asked="median")["all"]["abs_rel"] < 1e-6


@pytest.mark.parametrize(
    ("semantics", "protocol", "asked"),
    [
        (Semantics.DISPARITY, FOLDER_STEREO, "median"),
        (Semantics.METRIC_DEPTH, FOLDER_DEPTH, "scale_shift_inverse"),
        (Semantics.RELATIVE_INVERSE_DEPTH, FOLDER_DEPTH, "median"),
    ],
)
def test_alignments_that_mean_nothing(semantics, protocol, asked):
    with pytest.raises(InputError, match="--align"):
        alignment_of(semantics, protocol, asked)


def test_regions_of_depth():
    truth = np.full((20, 30), 1.5, np.float32)
    truth[:, 15:] = 5
    given = truth.copy()
    given[:5] = 0
    values = truth.copy()
    values[:5] *= 1.2
    regions = judged(values, truth=truth, depth=given)
    assert regions["holes"]["abs_rel"] == pytest.approx(0.2, rel=1e-5) and regions["holes"]["pixels"] == 150
    assert regions["readings"]["abs_rel"] == 0 and regions["readings"]["pixels"] == 450
    assert regions["1 to 2 m"]["pixels"] == regions["4 to 8 m"]["pixels"] == 300
    assert regions["near edges"]["pixels"] == 6 * 20  # two columns at the jump, two pixels around each
    assert "0 to 1 m" not in regions and "from 8 m" not in regions


def test_boundaries_where_the_truth_has_some():
    truth = np.full((20, 30), 1.5, np.float32)
    assert "boundary_f1" not in judged(truth, truth=truth)["all"]
    truth[:, 15:] = 5
    assert judged(truth, truth=truth)["all"]["boundary_f1"] == pytest.approx(1)


def test_disparity_and_what_is_visible():
    visible = np.zeros(TRUTH.shape, bool)
    visible[:10] = True
    values = np.where(visible, TRUTH + 0.5, TRUTH + 90)
    row = judge(Prediction(values, Semantics.DISPARITY), item(visible=visible), FOLDER_STEREO, None)["all"]
    assert row["epe"] == pytest.approx(0.5, rel=1e-5) and row["pixels"] == 300 and "density" not in row


def test_holes_are_counted():
    values = TRUTH.copy()
    values[:5] = np.nan
    row = judge(Prediction(values, Semantics.DISPARITY, holes=True), item(), FOLDER_STEREO, None)["all"]
    assert row["density"] == 0.75 and row["epe"] == 0
    with pytest.raises(InputError, match="NaN"):
        judge(Prediction(values, Semantics.DISPARITY), item(), FOLDER_STEREO, None)
