"""Pictures say what they show: holes are no depth, errors are of something, and ranges can be fixed."""

import cv2
import numpy as np
import pytest

from cdm_export.predict import drawing, pictures
from cdm_export.runtimes.contract import ErrorClass
from parity_tests.conftest import cli, refused

COLORFUL = ["inferno", "magma", "plasma", "viridis", "turbo"]


def hatched(picture):
    """[H, W] bool: where a pixel has one of the two grays of the hatching."""
    gray = (picture == picture[..., :1]).all(axis=2)
    return gray & np.isin(picture[..., 0], (drawing._HATCH_LIGHT, drawing._HATCH_DARK))


@pytest.mark.parametrize("colors", COLORFUL)
def test_a_hole_is_neither_far_nor_near(colors):
    depth = np.linspace(0.5, 6, 64 * 64, dtype=np.float32).reshape(64, 64)
    depth[20:30, 20:30] = 0
    shown = pictures.color_depth(depth, (1.0, 4.0), colors)
    assert np.array_equal(hatched(shown), depth == 0), "far and near are colors, holes are lines in gray"
    assert len(np.unique(shown[20:30, 20:30, 0])) == 2, "two grays: lines"


def test_the_legend_is_there_when_something_is_missing():
    depth = np.full((240, 320), 2.0, np.float32)
    whole = pictures.prediction_picture(np.zeros((240, 320, 3), np.uint8), depth, "m", "x")
    depth[:5] = np.nan
    holes = pictures.prediction_picture(np.zeros((240, 320, 3), np.uint8), depth, "m", "x")
    legend = [hatched(shown)[-60:, -100:].sum() for shown in (whole, holes)]  # the edges of letters have grays too
    assert legend[1] > legend[0] + 100, "under the bar, far from the holes in the top rows"


def test_an_error_says_of_what(monkeypatch):
    said = []
    titled = pictures.titled
    monkeypatch.setattr(pictures, "titled", lambda image, bar, title: said.append(title) or titled(image, bar, title))
    reference = np.full((120, 160), 2.0, np.float32)
    candidate = reference * np.float32(1.001)
    rgb = np.zeros((120, 160, 3), np.uint8)
    pictures.error_picture(rgb, reference, candidate, 5e-3, "x")
    pictures.error_picture(rgb, reference, candidate, 5e-3, "x", error_class=ErrorClass.RANGE, unit=4.0)
    pictures.error_picture(rgb, reference, np.full_like(reference, np.nan), 5e-3, "x")
    assert said[2] == "relative error against PyTorch: mean 1.0e-03 (2 mm)"
    assert said[5] == "error / range, against PyTorch: mean 5.0e-04"
    assert said[8] == "relative error against PyTorch: nothing comparable"


def test_a_fixed_range_colors_two_frames_alike():
    near, far = np.full((120, 160), 1.0, np.float32), np.full((120, 160), 3.0, np.float32)
    near[:, 80:], far[:, :80] = 3.0, 1.0  # the same depths, other shares of the frame
    near[0, 0], far[0, 0] = 0.2, 9.0
    rgb = np.zeros((120, 160, 3), np.uint8)
    own = [pictures.prediction_picture(rgb, one, "m", "x") for one in (near * 2, far)]
    fixed = [pictures.prediction_picture(rgb, one, "m", "x", limits=(0.3, 6.0)) for one in (near, far)]
    middle = fixed[0].shape[0] // 2
    assert np.array_equal(fixed[0][middle - 10], fixed[1][middle - 10])
    assert not np.array_equal(own[0], own[1])


@pytest.mark.parametrize("width", [160, 640, 1280])
def test_labels_can_be_read_on_a_phone(width):
    """At 390 pixels of width, a capital is at least 4.5 pixels high."""
    height = width * 3 // 4
    depth = np.full((height, width), 2.0, np.float32)
    shown = pictures.prediction_picture(np.zeros((height, width, 3), np.uint8), depth, "m", "x")
    (_, tall), _ = cv2.getTextSize("M", drawing._FONT, 0.5 * drawing._scale(max(height, 120)), 1)
    assert tall * 390 / shown.shape[1] >= 4.5


@pytest.mark.parametrize("given", ["3", "6:1", "a:b", "nan:2", "-1:4", "1:inf", "1:2:3"])
def test_a_range_that_is_none(small_bundle, tmp_path, given):
    done = cli("run", small_bundle, "--input", "synthetic:1", "-o", tmp_path / "x", f"--range={given}")
    refused(done, 2, "--range", "--range 0.3:6")
