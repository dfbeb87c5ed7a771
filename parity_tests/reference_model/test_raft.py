"""RAFT-Stereo and nndepth's RAFT as networks: lists of weights, parts stated again, rewrites, iterations, sizes."""

import copy
import json
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cdm_export.reference_model.backbones.raft import AllPairs, ClampedLookup, ConvexUpsample, SampledLookup
from cdm_export.reference_model.backbones.rewrites import convex_upsample, correlation_lookup
from cdm_export.reference_model.backbones.seeded_stereo import rendered_pair
from cdm_export.reference_model.checkpoint import detect_variant, load_network, read_checkpoint
from cdm_export.reference_model.nndepth import VARIANTS as NNDEPTH
from cdm_export.reference_model.raft_stereo import VARIANTS as RAFT_STEREO
from cdm_export.reference_model.random_weights import seeded_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import Semantics, Size
from cdm_export.runtimes.errors import CheckpointError, InputError
from cdm_export.transforms import rules_of, specialize
from parity_tests.exact_rewrites import check_one_by_one
from parity_tests.places import DATA

EXACT = 1e-13
VARIANTS = {variant.name: variant for variant in (*NNDEPTH, *RAFT_STEREO) if "raft" in variant.name}
ORIGINALS = {
    "raft-stereo": ("raft_up_default", 11.116, 1867.8),
    "raft-stereo-realtime": ("raft_up_realtime", 9.866, 147.9),
    "raft-stereo-rvc": ("raft_up_rvc", 11.109, 1867.8),
    "nndepth-raft-64": ("nn_raft_base_ctx64", 4.194, 198.0),
    "nndepth-raft-128": ("nn_raft_base_ctx128", 4.587, 212.9),
}
"""List of weights, parameters / 1e6, multiply-adds / 1e9 of a pair of 640x480, by name."""


def original_shapes(name):
    entries = json.loads((DATA / "keys" / f"{ORIGINALS[name][0]}.keys.json").read_text())
    return {key.removeprefix("module."): tuple(shape) for key, (shape, _) in entries.items()}


def on_meta(name):
    with torch.device("meta"):
        return get_variant(name).build().eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_is_the_originals_by_weights_and_products(name):
    network = on_meta(name)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == original_shapes(name)
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(ORIGINALS[name][1], abs=6e-4)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        out = network(torch.zeros(1, 3, 480, 640), torch.zeros(1, 3, 480, 640))
    assert out.shape == (1, 1, 480, 640)
    assert counter.get_total_flops() / 2e9 == pytest.approx(ORIGINALS[name][2], abs=0.06)


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_tell_which_it_is(name):
    shapes = original_shapes(name)
    assert [each for each, variant in VARIANTS.items() if variant.fits(shapes)] == [name]


def test_the_published_file_loads_with_its_prefix(tmp_path):
    network = seeded_network(get_variant("raft-stereo-realtime@1it"), 0)
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "realtime.pth")
    assert detect_variant(read_checkpoint(tmp_path / "realtime.pth")) == "raft-stereo-realtime"
    loaded, _, report = load_network(tmp_path / "realtime.pth", get_variant("raft-stereo-realtime"))
    assert report.notes() == [] and loaded.iterations == 7
    with pytest.raises(CheckpointError, match="checkpoint is raft-stereo-realtime, --model says raft-stereo"):
        load_network(tmp_path / "realtime.pth", get_variant("raft-stereo"))


# --- parts, stated again ----------------------------------------------------------------------------------------------


def interpolated(row, column, outside):
    """A row between its columns; outside it is 0, or its nearest end."""
    if not outside:
        column = min(max(column, 0.0), len(row) - 1.0)
    before = int(column // 1)
    share = column - before

    def at(index):
        return float(row[index]) if 0 <= index < len(row) else 0.0

    return (1 - share) * at(before) + (share * at(before + 1) if share else 0.0)


@pytest.mark.parametrize(("lookup", "zero"), [(SampledLookup, True), (ClampedLookup, False)])
def test_correlations_are_read_between_columns(lookup, zero):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 1, 8, 2, 16, generator=generator, dtype=torch.float64)
    pyramid = AllPairs(3)(left, right)
    assert [rows.shape for rows in pyramid] == [(32, 16), (32, 8), (32, 4)]
    assert float(pyramid[0][16 + 3, 5]) == pytest.approx(float(left[0, :, 1, 3] @ right[0, :, 1, 5]) / 8**0.5)
    place = torch.linspace(-30, 45, 32, dtype=torch.float64).reshape(1, 1, 2, 16)
    place[0, 0, 0, :4] = torch.tensor([0.0, 15.0, 7.0, -1.0])  # whole columns, and both ends
    expected = torch.tensor(
        [
            [
                interpolated(rows[pixel], float(place.flatten()[pixel]) / 2**level + offset, zero)
                for level, rows in enumerate(pyramid)
                for offset in range(-2, 3)
            ]
            for pixel in range(32)
        ],
        dtype=torch.float64,
    )
    seen = lookup(2)(pyramid, place)
    assert seen.shape == (1, 15, 2, 16)
    torch.testing.assert_close(seen[0].flatten(1).T, expected, rtol=1e-12, atol=1e-12)
    gathered = torch.nn.Sequential(lookup(2))
    assert correlation_lookup.apply(gathered, Size(16, 2)).modules == 1
    torch.testing.assert_close(gathered[0](pyramid, place), seen, rtol=1e-12, atol=1e-12)
    far = gathered[0](pyramid, place + 1e7)
    torch.testing.assert_close(far, lookup(2)(pyramid, place + 1e7), rtol=1e-12, atol=1e-12)
    assert not zero or not far.any()


def test_a_fine_pixel_is_a_weighted_mean_of_its_neighbors():
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(1, 1, 3, 4, generator=generator, dtype=torch.float64)
    logits = torch.randn(1, 9 * 4, 3, 4, generator=generator, dtype=torch.float64)
    fine = ConvexUpsample(2)(flow, logits)
    padded = F.pad(2 * flow, (1, 1, 1, 1))[0, 0]
    for row in range(6):
        for column in range(8):
            coarse_row, coarse_column = row // 2, column // 2
            phase = 2 * (row % 2) + column % 2
            shares = logits[0, phase::4, coarse_row, coarse_column].softmax(0)
            around = padded[coarse_row : coarse_row + 3, coarse_column : coarse_column + 3].flatten()
            assert float(fine[0, 0, row, column]) == pytest.approx(float(shares @ around), rel=1e-12)
    sliced = torch.nn.Sequential(ConvexUpsample(2))
    assert convex_upsample.apply(sliced, Size(8, 6)).modules == 1
    torch.testing.assert_close(sliced[0](flow, logits), fine, rtol=1e-13, atol=1e-13)


# --- the whole network ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """RGB 0..1, 128x64."""
    return tuple(
        0.5 + 0.5 * image[..., 16:80, 16:144].double() for image in rendered_pair(torch.Generator().manual_seed(1))
    )


@pytest.mark.parametrize("name", [f"{name}@2it" for name in VARIANTS])
def test_rewrites_are_exact_one_by_one(name, pair):
    variant = get_variant(name)
    exportable = variant.exportable(seeded_network(variant, 0).double(), "rgb").double().eval()
    expected = exportable(*pair)
    assert expected.isfinite().all() and 0.1 < float(expected.mean()) < 2 and float(expected.std()) > 0.05
    rewritten = check_one_by_one(variant, exportable, pair, Size(128, 64), EXACT)
    family = {"prepared_context"} if name.startswith("nndepth") else {"gates"}
    norms = set() if "rvc" in name else {"batch_norm"}
    assert rewritten == {"correlation_lookup", "last_mask", "convex_upsample"} | family | norms


def test_more_iterations_go_on_from_fewer(pair):
    """Every iteration moves every pixel a little, and a batch is two pairs."""
    variant = get_variant("raft-stereo-realtime@2it")
    network = seeded_network(variant, 3).double()
    left, right = (2 * image - 1 for image in pair)
    steps = []
    for iterations in (1, 2, 3, 4):
        network.iterations = iterations
        steps.append(network(left, right))
    moves = [float((after - before).abs().mean()) for before, after in pairwise(steps)]
    assert all(0.05 < move < 1.5 for move in moves), moves
    both = network(torch.cat((left, left.flip(-2))), torch.cat((right, right.flip(-2))))
    torch.testing.assert_close(both[:1], steps[-1], rtol=1e-9, atol=1e-9)


def test_seeded_weights_are_the_same_every_time():
    one, other = (seeded_network(get_variant("nndepth-raft-64@1it"), 5).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_norms_are_folded_only_where_nothing_else_reads_the_convolution():
    from cdm_export.reference_model.backbones.rewrites import batch_norm
    from cdm_export.reference_model.exportable import ExportableNetwork
    from cdm_export.reference_model.variant import ImageStatistics

    class Branches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.alone = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3, bias=False)
            self.one, self.two, self.three = (torch.nn.BatchNorm2d(4) for _ in range(3))

        def forward(self, image):
            x = self.shared(image)
            return self.three(self.alone(self.one(x) + self.two(x)))

    torch.manual_seed(0)
    network = Branches().double().eval().requires_grad_(False)
    for norm in (network.one, network.two, network.three):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    exportable = ExportableNetwork(network, "rgb", ImageStatistics())
    image = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    expected = exportable(image)
    assert batch_norm.apply(exportable, Size(12, 12)).modules == 1
    assert isinstance(network.one, torch.nn.BatchNorm2d) and isinstance(network.three, torch.nn.Identity)
    torch.testing.assert_close(exportable(image), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "camera", "network", "content"),
    [
        ("raft-stereo", "1242x375", "1248x384", "1242x375"),
        ("raft-stereo-realtime", "640x480", "640x480", "640x480"),
        ("nndepth-raft-64", "1280x960", "640x480", "640x480"),
    ],
)
def test_sizes(name, camera, network, content):
    variant = get_variant(name)
    contract = variant.contract(name, Size.parse(camera), variant.default_input_size)
    assert (str(contract.network), str(contract.content)) == (network, content)
    assert contract.semantics is Semantics.DISPARITY and contract.reads("right")


@pytest.mark.parametrize(
    ("name", "least"), [("raft-stereo", 64), ("raft-stereo-realtime", 128), ("nndepth-raft-64", 128)]
)
def test_rows_too_short_for_the_coarsest_correlations_are_refused(name, least):
    """One column has no place between columns: the original divides by 0 there."""
    variant = get_variant(name)
    assert variant.contract(name, Size(least, 64), 64).network.width == least
    with pytest.raises(InputError, match=rf"at least {least}x1, got {least - 32}x64"):
        variant.contract(name, Size(least - 32, 64), 64)


def test_iterations_are_part_of_the_name():
    assert get_variant("raft-stereo@8it").iterations == 8 and get_variant("raft-stereo@8it").build is not None
    assert get_variant("raft-stereo@32it").name == "raft-stereo", "its own number"
    for name, words in (
        ("raft-stereo@0it", "from 1 to 100, got 0"),
        ("raft-stereo@101it", "from 1 to 100, got 101"),
        ("cdm-vits@4it", "has none to choose"),
        ("raft-stereo@x it", "unknown model"),
    ):
        with pytest.raises(InputError, match=words):
            get_variant(name)


def test_networks_are_not_changed_by_their_copies(pair):
    """A copy of the rewritten network computes the same: nothing is held beside the modules."""
    variant = get_variant("nndepth-raft-64@2it")
    exportable = variant.exportable(seeded_network(variant, 0).double(), "rgb").double().eval()
    specialize(exportable, Size(128, 64), rules_of(variant))
    assert torch.equal(copy.deepcopy(exportable)(*pair), exportable(*pair))
