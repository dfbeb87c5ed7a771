"""Means, intervals and differences over images."""

import numpy as np
import pytest

from cdm_export.evaluate.result import differences, estimates


def images(values, pixels=None):
    pixels = pixels or [10] * len(values)
    return {
        f"{index}": {"all": {"pixels": count, "epe": value, "rms": value}}
        for index, (value, count) in enumerate(zip(values, pixels, strict=True))
    }


def test_images_or_pixels():
    given = images([1.0, 4.0], [30, 10])
    by_image, by_pixel = (estimates(given, average)["all"] for average in ("images", "pixels"))
    assert by_image["epe"].value == 2.5 and by_pixel["epe"].value == 1.75
    assert by_image["rms"].value == 2.5
    assert by_pixel["rms"].value == pytest.approx(((30 * 1 + 10 * 16) / 40) ** 0.5)
    assert "pixels" not in by_image


def test_interval_holds_the_mean_and_is_the_same_again():
    values = list(np.random.default_rng(0).normal(5, 1, 100))
    one, again = (estimates(images(values), "images")["all"]["epe"] for _ in range(2))
    assert one == again
    low, high = one.interval
    # 1.96 standard errors on either side.
    assert low < one.value < high and 0.3 < high - low < 0.5


def test_too_few_images_have_no_interval():
    assert estimates(images([1.0, 2.0]), "images")["all"]["epe"].interval is None


def test_a_difference_is_paired():
    hard = np.random.default_rng(0).uniform(1, 50, 40)
    found = differences(images(list(hard + 0.01)), images(list(hard)), "images")["all"]["epe"]
    assert found.value == pytest.approx(0.01) and found.interval == pytest.approx((0.01, 0.01))


def test_only_what_both_have():
    one, other = images([1.0, 2.0, 3.0]), images([1.0, 1.0])
    assert differences(one, other, "images")["all"]["epe"].value == 0.5


def test_other_pixels_are_another_question():
    assert differences(images([1.0], [5]), images([1.0], [6]), "images") == {}


def test_a_metric_that_some_images_lack():
    given, other = images([1.0, 3.0]), images([1.0, 1.0])
    given["0"]["all"]["boundary_f1"] = 0.5
    other["1"]["all"]["boundary_f1"] = 0.5
    assert estimates(given, "images")["all"]["boundary_f1"].value == 0.5
    found = differences(given, other, "images")["all"]
    assert "boundary_f1" not in found and found["epe"].value == 1
