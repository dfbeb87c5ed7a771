"""IGEV-Stereo as a network: its list of weights, parts stated again, rewrites."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cdm_export.reference_model.backbones.seeded_stereo import rendered_pair
from cdm_export.reference_model.igev.layers import (
    ContextUpsample,
    GeometryPyramids,
    GroupVolume,
    Regression,
    SampledGeometry,
)
from cdm_export.reference_model.random_weights import seeded_network
from cdm_export.reference_model.registry import fitting_variants, get_variant
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from parity_tests.exact_rewrites import check_one_by_one
from parity_tests.places import DATA


def test_the_network_is_the_originals_by_weights_and_products():
    entries = json.loads((DATA / "keys" / "igev_up.keys.json").read_text())
    original = {key.removeprefix("module."): tuple(shape) for key, (shape, _) in entries.items()}
    with torch.device("meta"):
        network = get_variant("igev-stereo").build().eval()
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == original
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(12.598, abs=6e-4)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        out = network(torch.zeros(1, 3, 480, 640), torch.zeros(1, 3, 480, 640))
    assert out.shape == (1, 1, 480, 640)
    assert counter.get_total_flops() / 2e9 == pytest.approx(1546.3, abs=0.06)
    assert [each.name for each in fitting_variants(original)] == ["igev-stereo"]


# --- parts, stated again ----------------------------------------------------------------------------------------------


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def between(row, place):
    """A number between numbers; 0 outside."""
    low = math.floor(place)
    return sum((1 - abs(place - at)) * float(row[at]) if 0 <= at < len(row) else 0.0 for at in (low, low + 1))


def test_the_volume_stated_again():
    left, right = random(1, 6, 2, 7), random(1, 6, 2, 7, seed=1)
    volume = GroupVolume(3, 4)(left, right)
    assert volume.shape == (1, 3, 4, 2, 7)
    for group in range(3):
        for disparity in range(4):
            for row in range(2):
                for column in range(7):
                    expected = 0.0
                    if column >= disparity:
                        own = slice(2 * group, 2 * group + 2)
                        products = left[0, own, row, column] * right[0, own, row, column - disparity]
                        expected = float(products.mean())
                    assert float(volume[0, group, disparity, row, column]) == pytest.approx(expected, abs=1e-14)


def test_the_lookup_stated_again():
    """Per level: the volume's channels around the disparity, then products around where that leads to."""
    left, right, volume = random(1, 5, 2, 8), random(1, 5, 2, 8, seed=1), random(1, 3, 6, 2, 8, seed=2)
    disparity = 3 + 4 * random(1, 1, 2, 8, seed=3)
    start = torch.arange(8, dtype=torch.float64).expand(1, 1, 2, 8)
    seen = SampledGeometry(2)(GeometryPyramids(2)(left, right, volume), disparity, start)
    assert seen.shape == (1, 2 * 4 * 5, 2, 8)
    for row in range(2):
        for column in range(8):
            place = float(disparity[0, 0, row, column])
            expected = []
            products = [float(left[0, :, row, column] @ right[0, :, row, other]) for other in range(8)]
            curves = [volume[0, channel, :, row, column].tolist() for channel in range(3)]
            for level in range(2):
                scale = 2**level
                for curve in curves:
                    expected += [between(curve, place / scale + offset) for offset in range(-2, 3)]
                expected += [between(products, (column - place) / scale + offset) for offset in range(-2, 3)]
                products, *curves = (
                    [(one + other) / 2 for one, other in zip(line[::2], line[1::2], strict=False)]
                    for line in (products, *curves)
                )
            assert seen[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_regression_stated_again():
    logits = random(1, 1, 5, 2, 3)
    mean = Regression()(logits)
    for row in range(2):
        for column in range(3):
            weights = [math.exp(float(logits[0, 0, at, row, column])) for at in range(5)]
            expected = sum(at * weight for at, weight in enumerate(weights)) / sum(weights)
            assert float(mean[0, 0, row, column]) == pytest.approx(expected, abs=1e-13)


def test_the_upsampling_stated_again():
    disparity, logits = random(1, 1, 2, 3), random(1, 9, 8, 12)
    fine = ContextUpsample(4)(disparity, logits)
    for row in range(8):
        for column in range(12):
            weights = [math.exp(float(logits[0, at, row, column])) for at in range(9)]
            expected = 0.0
            for at, weight in enumerate(weights):
                y, x = row // 4 + at // 3 - 1, column // 4 + at % 3 - 1
                if 0 <= y < 2 and 0 <= x < 3:
                    expected += 4 * float(disparity[0, 0, y, x]) * weight / sum(weights)
            assert float(fine[0, 0, row, column]) == pytest.approx(expected, abs=1e-13)


# --- the whole network ------------------------------------------------------------------------------------------------


def test_rewrites_are_exact_one_by_one():
    variant = get_variant("igev-stereo@2it")
    exportable = variant.exportable(seeded_network(variant, 0).double(), "rgb").double().eval()
    pair = [0.5 + 0.5 * image[..., 16:80, :128].double() for image in rendered_pair(torch.Generator().manual_seed(1))]
    expected = exportable(*pair)
    assert expected.isfinite().all() and float(expected.std()) > 1
    rewritten = check_one_by_one(variant, exportable, pair, Size(128, 64), 1e-12)
    assert rewritten == {"batch_norm", "geometry_lookup", "last_mask", "context_upsample", "gates"}


def test_more_iterations_go_on_from_fewer():
    network = seeded_network(get_variant("igev-stereo@1it"), 3).double()
    left, right = (image[..., :64, :96].double() for image in rendered_pair(torch.Generator().manual_seed(1)))
    steps = []
    for iterations in (1, 2, 3):
        network.iterations = iterations
        steps.append(network(left, right))
    for before, after in pairwise(steps):
        assert 0.02 < float((after - before).abs().mean()) < 1.5


def test_images_too_small_for_the_coarsest_grid_are_refused():
    variant = get_variant("igev-stereo")
    assert variant.contract("igev-stereo", Size(64, 64)).network == (64, 64)
    with pytest.raises(InputError, match="at least 64x64, got 640x32"):
        variant.contract("igev-stereo", Size(640, 32))
