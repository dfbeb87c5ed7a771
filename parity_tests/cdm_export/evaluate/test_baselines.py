"""Baselines: what they give where the answer is known."""

import cv2
import numpy as np
import pytest

from cdm_export.evaluate.baselines import BASELINES, nearest, sgbm, sgbm_filled, telea
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame

SHIFT = 7


@pytest.fixture(scope="module")
def pair():
    """Texture seen 7 pixels further left by the right camera."""
    texture = np.random.default_rng(0).integers(0, 256, (60, 400, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (3, 3), 0)
    return Frame(texture[:, :-SHIFT], right=np.ascontiguousarray(texture[:, SHIFT:]))


def depth_frame(depth):
    return Frame(np.zeros((*depth.shape, 3), np.uint8), depth=depth.astype(np.float32))


def test_sgbm_finds_the_shift(pair):
    found = sgbm(pair)
    known = np.isfinite(found)
    # The first 192 columns have no room for the search.
    assert known[:, 200:].mean() > 0.9 and not known[:, :190].any()
    assert np.abs(found[known] - SHIFT).max() < 0.2


def test_filled_is_sgbm_where_that_has_an_answer(pair):
    found, filled = sgbm(pair), sgbm_filled(pair)
    known = np.isfinite(found)
    assert np.isfinite(filled).all() and np.array_equal(filled[known], found[known])
    row = int(known.any(axis=1).argmax())
    first = int(known[row].argmax())
    assert (filled[row, :first] == found[row, first]).all()  # nothing is left of it: from the right


def test_nothing_to_match():
    black = np.zeros((60, 400, 3), np.uint8)
    with pytest.raises(InputError, match="no match"):
        sgbm_filled(Frame(black, right=black))


def test_nearest_takes_the_nearest_reading():
    depth = np.zeros((5, 9))
    depth[2, 1], depth[2, 7] = 1.5, 4.0
    filled = nearest(depth_frame(depth))
    assert (filled[:, :4] == 1.5).all() and (filled[:, 5:] == 4.0).all()


def test_readings_stay_and_nan_is_a_hole():
    depth = np.random.default_rng(0).uniform(1, 5, (20, 30))
    depth[4:8, 5:9], depth[10, 10] = 0, np.nan
    read = depth > 0
    for fill in (nearest, telea):
        filled = fill(depth_frame(depth))
        assert np.isfinite(filled).all() and (filled > 0).all()
        assert np.allclose(filled[read], depth[read], atol=1e-6)


def test_telea_is_in_meters():
    """OpenCV adds half a level to what it fills: of a wall 2 m away, no meters may come of that."""
    depth = np.full((40, 40), 2.0)
    depth[10:25, 10:25] = 0
    assert np.abs(telea(depth_frame(depth)) - 2).max() < 0.005


@pytest.mark.parametrize("fill", [nearest, telea])
def test_no_reading(fill):
    with pytest.raises(InputError, match="no reading"):
        fill(depth_frame(np.zeros((5, 5))))


def test_names():
    assert set(BASELINES) == {"sgbm", "nearest", "telea"}
