"""CREStereo as a network, the authors' and nndepth's: lists of weights, parts stated again, rewrites."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cdm_export.reference_model.backbones.seeded_stereo import rendered_pair
from cdm_export.reference_model.crestereo.network import (
    CreStereo,
    LearnedSearch,
    LinearAttention,
    LocalSearch,
    position_encoding,
    sampled,
)
from cdm_export.reference_model.random_weights import seeded_network
from cdm_export.reference_model.registry import fitting_variants, get_variant
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from parity_tests.exact_rewrites import check_one_by_one
from parity_tests.places import DATA

ORIGINALS = {"crestereo": ("cre_up", 5.433, 1533.4), "nndepth-crestereo": ("nn_cre_base", 5.394, 239.2)}
"""List of weights, parameters / 1e6, multiply-adds / 1e9 of a pair of 640x480, by name.

The original's cascade counts 1535.2: its second pass attends on a grid that it then does not use.
"""


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_network_is_the_originals_by_weights_and_products(name):
    entries = json.loads((DATA / "keys" / f"{ORIGINALS[name][0]}.keys.json").read_text())
    original = {key.removeprefix("module."): tuple(shape) for key, (shape, _) in entries.items()}
    with torch.device("meta"):
        network = get_variant(name).build().eval()
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == original
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(ORIGINALS[name][1], abs=6e-4)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        out = network(torch.zeros(1, 3, 480, 640), torch.zeros(1, 3, 480, 640))
    assert out.shape == (1, 1, 480, 640)
    assert counter.get_total_flops() / 2e9 == pytest.approx(ORIGINALS[name][2], abs=0.06)
    assert [each.name for each in fitting_variants(original)] == [name]


# --- parts, stated again ----------------------------------------------------------------------------------------------


def between(image, column, row):
    """A pixel between pixels; 0 outside."""
    left, top = math.floor(column), math.floor(row)
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for down in (0, 1):
        for across in (0, 1):
            y, x = top + down, left + across
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                share = (1 - abs(column - x)) * (1 - abs(row - y))
                total = total + share * image[:, y, x]
    return total


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 1, 256, 4, 6, generator=generator, dtype=torch.float64)
    flow = 2 * torch.randn(1, 2, 4, 6, generator=generator, dtype=torch.float64)
    offsets = torch.rand(1, 18, 4, 6, generator=generator, dtype=torch.float64) - 0.5
    return left, right, flow, offsets


def test_places_between_pixels_and_outside(features):
    _, right, flow, _ = features
    places = flow.permute(0, 2, 3, 1) + 2
    seen = sampled(right, places)
    for row in range(4):
        for column in range(6):
            expected = between(right[0], *map(float, places[0, row, column]))
            torch.testing.assert_close(seen[0, :, row, column], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("small", [False, True])
def test_the_learned_search_stated_again(features, small):
    left, right, flow, offsets = features
    seen = LearnedSearch()(left, right, flow, offsets, small)
    window = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)] if small else [(0, dx) for dx in range(-4, 5)]
    for row, column in ((0, 0), (2, 3), (3, 5)):
        for index, (dy, dx) in enumerate(window):
            x = column + float(flow[0, 0, row, column]) + dx + float(offsets[0, 2 * index, row, column])
            y = row + float(flow[0, 1, row, column]) + dy + float(offsets[0, 2 * index + 1, row, column])
            products = left[0, :, row, column] * between(right[0], x, y)
            for group in range(4):
                expected = float(products[64 * group : 64 * group + 64].mean())
                assert float(seen[0, 9 * group + index, row, column]) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("small", [False, True])
def test_the_local_search_stated_again(features, small):
    """Within the window it is the warped image that goes on beyond its border, not the right one."""
    left, right, flow, _ = features
    seen = LocalSearch()(left, right, flow, small)
    warped = torch.stack(
        [
            torch.stack(
                [
                    between(right[0], column + float(flow[0, 0, row, column]), row + float(flow[0, 1, row, column]))
                    for column in range(6)
                ]
            )
            for row in range(4)
        ]
    ).permute(2, 0, 1)
    window = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)] if small else [(0, dx) for dx in range(-4, 5)]
    for row, column in ((0, 0), (2, 3), (3, 5)):
        for index, (dy, dx) in enumerate(window):
            other = warped[:, min(max(row + dy, 0), 3), min(max(column + dx, 0), 5)]
            products = left[0, :, row, column] * other
            for group in range(4):
                expected = float(products[64 * group : 64 * group + 64].mean())
                assert float(seen[0, 9 * group + index, row, column]) == pytest.approx(expected, abs=1e-10)


def test_linear_attention_is_a_weighted_mean_of_values():
    torch.manual_seed(0)
    layer = LinearAttention().double().eval().requires_grad_(False)
    tokens, source = torch.randn(1, 5, 256, dtype=torch.float64), torch.randn(1, 7, 256, dtype=torch.float64)
    query, key, value = layer.q_proj(tokens)[0], layer.k_proj(source)[0], layer.v_proj(source)[0]
    mixed = []
    for head in range(8):
        own = slice(32 * head, 32 * head + 32)
        weights = (F.elu(query[:, own]) + 1) @ (F.elu(key[:, own]) + 1).T
        mixed.append(weights / (weights.sum(dim=1, keepdim=True) + 1e-6) @ value[:, own])
    message = layer.norm1(layer.merge(torch.cat(mixed, dim=1)))
    expected = tokens[0] + layer.norm2(layer.mlp(torch.cat((tokens[0], message), dim=1)))
    torch.testing.assert_close(layer(tokens, source)[0], expected, rtol=1e-9, atol=1e-9)


def test_the_encoding_has_the_originals_frequencies():
    """-log(1e4) / 256 // 2 is -1: every pair of channels turns e^2 times slower than the one before."""
    encoding = position_encoding(torch.zeros(1, 256, 3, 5, dtype=torch.float64))
    assert encoding.shape == (1, 256, 3, 5)
    for pair in (0, 1, 2):
        rate = math.exp(-2 * pair)
        at = encoding[0, 4 * pair : 4 * pair + 4, 1, 3].tolist()
        expected = [math.sin(4 * rate), math.cos(4 * rate), math.sin(2 * rate), math.cos(2 * rate)]
        assert at == pytest.approx(expected, abs=1e-6)


# --- the whole network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"{name}@2it" for name in ORIGINALS])
def test_rewrites_are_exact_one_by_one(name):
    variant = get_variant(name)
    exportable = variant.exportable(seeded_network(variant, 0).double(), "rgb").double().eval()
    pair = [0.5 + 0.5 * image[..., 16:80, 16:80].double() for image in rendered_pair(torch.Generator().manual_seed(1))]
    expected = exportable(*pair)
    assert expected.isfinite().all() and 0.5 < float(expected.mean()) < 4 and float(expected.std()) > 0.1
    rewritten = check_one_by_one(variant, exportable, pair, Size(64, 64), 1e-13)
    assert rewritten == {"last_mask", "one_attention", "prepared_context", "convex_upsample", "linear_layout"}


def test_the_cascade_starts_from_half_the_size():
    """The flow of the smaller images goes in doubled: with no further update that is what comes out."""
    network = seeded_network(get_variant("crestereo@2it"), 0).double()
    assert isinstance(network, CreStereo)
    left, right = (image[..., :64, :128].double() for image in rendered_pair(torch.Generator().manual_seed(1)))
    halves = [F.interpolate(image, size=(32, 64), mode="bilinear", align_corners=True) for image in (left, right)]
    start = network._flow(*halves, None)
    network.update_block.flow_head.conv2.weight.zero_()
    network.update_block.flow_head.conv2.bias.zero_()
    still = network._flow(left, right, start)
    inner = (slice(None), 0, slice(16, 48), slice(32, 96))
    wide = 2 * F.interpolate(start, size=(64, 128), mode="bilinear", align_corners=True)
    assert float((still[inner] - wide[inner]).abs().mean() / wide[inner].abs().mean()) < 0.05


def test_images_too_small_for_the_coarsest_grid_are_refused():
    variant = get_variant("crestereo")
    assert variant.contract("crestereo", Size(64, 64)).network == (64, 64)
    with pytest.raises(InputError, match="at least 64x64, got 640x32"):
        variant.contract("crestereo", Size(640, 32))
