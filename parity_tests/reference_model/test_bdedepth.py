"""BDEdepth as a network: names, shapes and counts of the originals, and their arithmetic stated again."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cdm_export.precision.plan import plan
from cdm_export.precision.range_scan import RangeScan
from cdm_export.precision.rounded import RoundedProducts
from cdm_export.precision.typed_modules import type_network
from cdm_export.reference_model.bdedepth import VARIANTS
from cdm_export.reference_model.bdedepth.hrnet import HighResolutionModule
from cdm_export.reference_model.checkpoint import load_network
from cdm_export.reference_model.random_weights import calibrate_range, seeded_network
from cdm_export.runtimes.contract import ErrorClass, Semantics, Size
from cdm_export.runtimes.errors import CheckpointError, InputError
from cdm_export.runtimes.processing import preprocess
from cdm_export.runtimes.sources import open_source
from cdm_export.transforms import SHARED, specialize
from parity_tests.places import DATA

BY_NAME = {variant.name: variant for variant in VARIANTS}
RESNET, HRNET = "bdedepth-resnet18", "bdedepth-hrnet18"
TINY = Size(160, 96)
"""3 and 5 pixels at the coarsest level: an odd grid, on which both kinds of upsampling differ."""


def on_meta(name):
    with torch.device("meta"):
        return BY_NAME[name].build().eval()


# --- names, shapes, counts --------------------------------------------------------------------------------------------


def test_both_are_here():
    assert set(BY_NAME) == {RESNET, HRNET}


@pytest.mark.parametrize("name", BY_NAME)
def test_names_shapes_and_their_order_are_the_originals(name):
    state = on_meta(name).state_dict()
    original = json.loads((DATA / "keys" / f"bde_{name.rpartition('-')[2]}.keys.json").read_text())
    assert {key: list(value.shape) for key, value in state.items()} == original
    assert list(state) == list(original)
    counted = {key for key, value in state.items() if value.dtype != torch.float32}
    assert counted == {key for key in original if key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(("name", "encoder", "decoder"), [(RESNET, 11_699_048, 6_775_636), (HRNET, 9_564_116, 634_084)])
def test_parameters(name, encoder, decoder):
    network = on_meta(name)
    counts = [sum(each.numel() for each in part.parameters()) for part in (network.encoder, network.depth)]
    assert counts == [encoder, decoder]
    assert BY_NAME[name].million_parameters == pytest.approx(sum(counts) / 1e6, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        (RESNET, (192, 640), 15.95),
        (RESNET, (192, 512), 12.76),
        (RESNET, (288, 384), 14.35),
        (HRNET, (192, 640), 14.99),
        (HRNET, (192, 512), 11.99),
        (HRNET, (288, 384), 13.49),
    ],
)
def test_multiply_adds(name, size, giga):
    network = on_meta(name)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        out = network(torch.empty(1, 3, *size, device="meta"))
    assert out.shape == (1, 1, *size)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, abs=0.006)


def test_fits_tells_the_two_apart():
    shapes = {name: {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()} for name in BY_NAME}
    for name, variant in BY_NAME.items():
        assert [other for other in shapes if variant.fits(shapes[other])] == [name]
        for part in ("encoder.", "depth."):
            assert not variant.fits({key: shape for key, shape in shapes[name].items() if key.startswith(part)})


def published(network):
    """As the original's training saves it: two networks beside the ones that only training needs."""
    return {
        "encoder": network.encoder.state_dict(),
        "depth": network.depth.state_dict(),
        "pose_encoder": {"encoder.conv1.weight": torch.randn(64, 6, 7, 7)},
        "pose": {"net.0.weight": torch.randn(256, 512, 1, 1)},
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.randn(3)}}, "param_groups": [{"lr": 1e-4}]},
        "height": 192,
        "width": 640,
    }


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", BY_NAME)
def test_published_file(tmp_path, name, nested):
    network = seeded_network(BY_NAME[name], 3)
    tree = published(network)
    torch.save({"model": tree, "epoch": 3} if nested else tree, tmp_path / "weights.pth")
    loaded, _, report = load_network(tmp_path / "weights.pth", BY_NAME[name])
    wanted = network.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
    assert (report.loaded, report.absent, len(report.unexpected)) == (len(wanted), (), 2)


def test_decoder_alone_and_decoder_of_more_scales_are_refused(tmp_path):
    """Trained for four scales, the decoder has further outputs, and numbers that mean other parts."""
    variant = BY_NAME[RESNET]
    tree = published(seeded_network(variant, 3))
    torch.save(tree["depth"], tmp_path / "depth.pth")
    more = {
        key if int(key.split(".")[1]) < 13 else f"decoder.{int(key.split('.')[1]) + 1}.{key.split('.', 2)[2]}": value
        for key, value in tree["depth"].items()
    }
    torch.save({**tree, "depth": more}, tmp_path / "scales.pth")
    for file in ("depth.pth", "scales.pth"):
        with pytest.raises(CheckpointError, match=r"of no known model|holds no tensors"):
            load_network(tmp_path / file, variant)


# --- the arithmetic, stated again: plain functions over a state dict, nothing of ours ---------------------------------


def stated_again(state, image, levels):
    """RGB 0..1 [B, 3, H, W] -> [B, 1, H, W], from the published description alone. ``levels``: the encoder's maps."""
    get = {name.removeprefix("depth.decoder."): value for name, value in state.items() if name.startswith("depth.")}

    def leaky(x, name):
        return torch.where(x > 0, x, x * get[f"{name}.weight"])

    def conv(x, name, padding=1):
        return F.conv2d(x, get[f"{name}.weight"], get[f"{name}.bias"], padding=padding)

    def right(x, number):
        return conv(leaky(conv(leaky(x, f"{number}.0"), f"{number}.1"), f"{number}.2"), f"{number}.3")

    def up(x, number):
        return conv(leaky(doubled(doubled(x).mT).mT, f"{number}.1"), f"{number}.2")

    first = [0, 7, 13, 19, 25, 31]
    sent = None
    for row in range(5, -1, -1):
        x, new = levels[row], []
        for column in range(3):
            x = right(x, first[row] + (column if row == 5 else 2 * column))
            x = x if sent is None else x + sent[column]
            if row:
                new.append(up(x, first[row - 1] + 2 * column + 1))
        sent = new
    # A border of the image mirrored in its outermost row: that row itself is not repeated.
    rows, columns = ([1, *range(side), side - 2] for side in x.shape[2:])
    return torch.sigmoid(conv(x[:, :, rows][..., columns], "6.conv", padding=0))


def doubled(x):
    """Last axis to twice the length, half-pixel centers: quarters of the neighbors, the border repeated."""
    left, right = torch.cat((x[..., :1], x[..., :-1]), -1), torch.cat((x[..., 1:], x[..., -1:]), -1)
    return torch.stack((0.75 * x + 0.25 * left, 0.75 * x + 0.25 * right), -1).flatten(-2)


def corner_aligned(x, size):
    """Bilinear; the first and the last pixel of both grids coincide."""

    def weights(count, wanted):
        places = torch.arange(wanted, dtype=x.dtype) * (count - 1) / (wanted - 1)
        return (1 - (places[:, None] - torch.arange(count, dtype=x.dtype)).abs()).clamp(min=0)

    return weights(x.shape[2], size[0]) @ x @ weights(x.shape[3], size[1]).T


class Layers:
    """Convolutions and norms by name."""

    def __init__(self, state):
        self.get = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("enc")}

    def conv(self, x, name, stride=1):
        weight = self.get[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)

    def norm(self, x, name):
        mean, variance, weight, bias = (
            self.get[f"{name}.{part}"].reshape(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def pair(self, x, name, stride=1):
        return self.norm(self.conv(x, f"{name}.0", stride), f"{name}.1")

    def stem(self, x, conv, norm, stride=1):
        return self.norm(self.conv(x, conv, stride), norm).relu()

    def block(self, x, name, stride=1):
        count = 3 if f"{name}.conv3.weight" in self.get else 2
        out = x
        for index in range(1, count + 1):
            here = stride if index == 1 else 1
            out = self.norm(self.conv(out, f"{name}.conv{index}", here), f"{name}.bn{index}")
            out = out.relu() if index < count else out
        beside = self.pair(x, f"{name}.downsample", stride) if f"{name}.downsample.0.weight" in self.get else x
        return (out + beside).relu()


def resnet_levels(state, image):
    layers = Layers(state)
    x = (image - 0.45) / 0.225
    levels = [layers.stem(x, "conv1", "bn1"), layers.stem(x, "encoder.conv1", "encoder.bn1", 2)]
    x = F.max_pool2d(F.pad(levels[1], (1, 1, 1, 1), value=-1e9), 3, 2)
    for index in range(1, 5):
        x = layers.block(x, f"encoder.layer{index}.0", 1 if index == 1 else 2)
        x = layers.block(x, f"encoder.layer{index}.1")
        levels.append(x)
    return levels


def hrnet_levels(state, image):
    layers = Layers(state)
    x = (image - 0.45) / 0.225
    levels = [layers.stem(x, "context_conv", "context_bn"), layers.stem(x, "encoder.conv1", "encoder.bn1", 2)]
    x = layers.stem(levels[1], "encoder.conv2", "encoder.bn2", 2)
    for index in range(4):
        x = layers.block(x, f"encoder.layer1.{index}")
    maps = [
        layers.pair(x, "encoder.transition1.0").relu(),
        layers.pair(x, "encoder.transition1.1.0", 2).relu(),
    ]
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        if stage > 2:
            maps.append(layers.pair(maps[-1], f"encoder.transition{stage - 1}.{stage - 1}.0", 2).relu())
        for index in range(modules):
            maps = fused(layers, maps, f"encoder.stage{stage}.{index}")
    return levels + maps


def fused(layers, maps, name):
    maps = list(maps)
    for branch in range(len(maps)):
        for block in range(4):
            maps[branch] = layers.block(maps[branch], f"{name}.branches.{branch}.{block}")
    sums = []
    for target, own in enumerate(maps):
        total = torch.zeros_like(own)
        for source, x in enumerate(maps):
            path = f"{name}.fuse_layers.{target}.{source}"
            if source > target:
                x = corner_aligned(layers.pair(x, path), own.shape[2:])
            for step in range(target - source):
                x = layers.pair(x, f"{path}.{step}", 2)
                x = x.relu() if step < target - source - 1 else x
            total = total + x
        sums.append(total.relu())
    return sums


LEVELS = {RESNET: resnet_levels, HRNET: hrnet_levels}


@pytest.fixture(scope="module")
def seeded():
    """``seeded(name)``: a calibrated network with seeded weights, and a real frame as the contract prepares it."""
    frame = open_source("sample", camera=TINY).load(0).frame
    made = {}

    def make(name):
        if name not in made:
            variant = BY_NAME[name]
            image = torch.from_numpy(preprocess(frame, variant.contract(name, TINY, network=TINY))["image"])
            network = seeded_network(variant, 0)
            calibrate_range(network, variant, "rgb", (image,), 0)
            made[name] = network, image
        return made[name]

    return make


@pytest.mark.parametrize("name", BY_NAME)
def test_network_is_the_published_one(seeded, name):
    image = seeded(name)[1]
    network = BY_NAME[name].build().eval().requires_grad_(False)
    network.load_state_dict(seeded(name)[0].state_dict())
    exportable = BY_NAME[name].exportable(network, "rgb").eval().double()
    state = {key: value.double() for key, value in network.state_dict().items()}
    with torch.inference_mode():
        got = exportable(image.double())
        levels = LEVELS[name](state, image.double())
        expected = stated_again(state, image.double(), levels)
        ours = network.encoder(exportable.normalize(image.double()))
    assert [tuple(level.shape) for level in ours] == [tuple(level.shape) for level in levels]
    assert got.shape == (1, 1, TINY.height, TINY.width) and float(got.min()) > 0 and float(got.max()) < 1
    assert float((got - expected).abs().max()) <= 1e-6 * float(expected.std())


@pytest.mark.parametrize("name", BY_NAME)
def test_seeded_weights_see_the_image(seeded, name):
    network, image = seeded(name)
    exportable = BY_NAME[name].exportable(network, "rgb").eval()
    with torch.inference_mode():
        there, flipped = exportable(image), exportable(image.flip(3)).flip(3)
        every = [float(level.std()) for level in network.encoder(exportable.normalize(image))]
    low, high = (float(there.flatten().quantile(share)) for share in (0.01, 0.99))
    assert (low, high) == (pytest.approx(0.01, rel=0.05), pytest.approx(0.2, rel=0.05))
    assert float((there - flipped).abs().mean()) > 0.1 * float(there.std())
    assert min(every) > 0.1 and max(every) < 100


def test_every_branch_of_hrnet_reaches_every_other(seeded):
    """A seed that silences what the branches tell one another would hide an error there."""
    network, _ = seeded(HRNET)
    module = network.encoder.encoder.stage4[1]
    assert isinstance(module, HighResolutionModule)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, 18 << level, 8 >> level, 16 >> level, generator=generator) for level in range(4)]
    with torch.inference_mode():
        before = module(maps)
        for source in range(4):
            changed = [level * (1.5 if index == source else 1) for index, level in enumerate(maps)]
            moved = [float((new - old).abs().max()) for new, old in zip(module(changed), before, strict=True)]
            assert min(moved) > 0.01


@pytest.mark.parametrize("name", BY_NAME)
def test_exported_program_computes_the_same(seeded, name):
    network, image = seeded(name)
    exportable = BY_NAME[name].exportable(network, "rgb").eval()
    with torch.inference_mode():
        expected = exportable(image)
    program = torch.export.export(exportable, (image,))
    assert torch.equal(program.module()(image), expected)


@pytest.fixture
def exportable(seeded, request):
    """A network of its own behind its interface, to be rewritten."""
    name = request.param
    network = BY_NAME[name].build()
    network.load_state_dict(seeded(name)[0].state_dict())
    return BY_NAME[name].exportable(network, "rgb").eval().requires_grad_(False)


@pytest.mark.parametrize("exportable", BY_NAME, indirect=True)
def test_rewrites_are_exact(seeded, exportable):
    image = seeded(RESNET)[1].double()
    exportable.double()
    with torch.inference_mode():
        before = exportable(image)
        savings = specialize(exportable, TINY, {**BY_NAME[RESNET].rewrites(), **SHARED})
        after = exportable(image)
    assert float((before - after).abs().max()) <= 1e-12 * float(before.std())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in exportable.modules())
    rewritten = {name for name, saving in savings.items() if saving.modules}
    assert {"batch_norm"} <= rewritten <= {"batch_norm", "linear_layout"}  # ResNet's classifier is linear, and unread


@pytest.mark.parametrize("exportable", [RESNET], indirect=True)
def test_last_steps_stay_fp32_in_fp16(seeded, exportable):
    image, seen = seeded(RESNET)[1], []
    variant = BY_NAME[RESNET]
    with torch.inference_mode():
        expected = exportable(image)
        specialize(exportable, TINY, {**variant.rewrites(), **SHARED})
        with RangeScan() as scan:
            exportable(image)
        contract = variant.contract(RESNET, TINY, network=TINY)
        type_network(exportable, plan(exportable.network, scan.max_abs, variant.precision, "fp16"), contract)
        decoder = exportable.network.depth
        for module in (decoder.decoder[0], decoder.decoder[6], decoder.sigmoid):
            module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        with RoundedProducts():
            got = exportable(image)
    assert seen == [torch.float16, torch.float32, torch.float32] and got.dtype == torch.float32
    assert 1e-7 < float((got - expected).abs().mean() / (expected.max() - expected.min())) < 1e-3


# --- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_contract(name):
    contract = BY_NAME[name].contract(name, Size(1242, 375))
    assert contract.network == contract.content == Size(640, 192) and contract.camera == Size(1242, 375)
    assert [spec.shape for spec in (*contract.inputs, *contract.outputs)] == [(1, 3, 192, 640), (1, 1, 192, 640)]
    assert contract.sizing.rule == "fixed" and contract.sizing.multiple == 32 and contract.input_size == 192
    assert contract.semantics is Semantics.RELATIVE_INVERSE_DEPTH and not contract.metric
    assert contract.semantics.error_class is ErrorClass.RANGE and contract.output_resize == "bilinear"
    assert "0.01 + 9.99 of it" in contract.output.unit and "0.1..100" in contract.output.unit


@pytest.mark.parametrize(("height", "width"), [(192, 640), (96, 320), (320, 1056), (64, 224)])
def test_other_heights_keep_the_shape(height, width):
    assert BY_NAME[RESNET].contract(RESNET, Size(1242, 375), height).network == Size(width, height)


def test_network_of_another_shape():
    contract = BY_NAME[HRNET].contract(HRNET, Size(2048, 1024), network=Size(512, 192), batch=3)
    assert contract.network == Size(512, 192) and contract.batch == 3 and contract.input_size == 192


@pytest.mark.parametrize(
    "options", [{"input_size": 200}, {"input_size": 32}, {"network": Size(500, 192)}, {"network": Size(512, 0)}]
)
def test_sides_that_are_no_multiples(options):
    with pytest.raises(InputError, match="multiples of 32"):
        BY_NAME[RESNET].contract(RESNET, Size(1242, 375), **options)
