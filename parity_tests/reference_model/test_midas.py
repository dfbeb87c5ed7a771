"""MiDaS as networks: the originals' lists of weights, their arithmetic stated again, processing, rewrites."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cdm_export.reference_model.checkpoint import detect_variant, load_network, read_checkpoint
from cdm_export.reference_model.midas import VARIANTS
from cdm_export.reference_model.midas.config import CONFIGS, BeitConfig, Swin2Config, window_side
from cdm_export.reference_model.midas.network import Midas
from cdm_export.reference_model.midas.seed import seed
from cdm_export.reference_model.midas.swin2 import join, partition, shift_mask, windows_of
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import Semantics, Size
from cdm_export.runtimes.errors import CheckpointError, InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import at_camera_size, preprocess
from cdm_export.transforms import rules_of, specialize
from parity_tests.conftest import cli, refused
from parity_tests.places import DATA

BEIT, SWIN2 = "midas-beit-base-384", "midas-swin2-tiny-256"
EXACT = 1e-13
MILLIONS = {name: variant.million_parameters for name, variant in ((each.name, each) for each in VARIANTS)}
GMAC = {
    ("midas-beit-base-384", 384, 384): 111.8,
    ("midas-beit-base-384", 384, 512): 151.8,
    ("midas-beit-large-384", 384, 384): 258.2,
    ("midas-beit-large-512", 512, 512): 481.3,
    ("midas-beit-large-512", 512, 672): 652.8,
    ("midas-swin2-tiny-256", 256, 256): 29.8,
    ("midas-swin2-base-384", 384, 384): 108.5,
    ("midas-swin2-large-384", 384, 384): 171.9,
}
"""Counted of the originals, by name, height and width."""


def original_list(name):
    file = DATA / "keys" / f"midas_{get_variant(name).weights.split('.pt')[0]}.keys.json"
    return {key: (tuple(shape), kind) for key, (shape, kind) in json.loads(file.read_text()).items()}


def on_meta(name):
    with torch.device("meta"):
        return get_variant(name).build().eval()


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MILLIONS)
def test_names_and_shapes_are_the_originals(name):
    original = original_list(name)
    follows = {key for key in original if key.endswith(get_variant(name).recomputed)}
    ours = {key: (tuple(value.shape), str(value.dtype)) for key, value in on_meta(name).state_dict().items()}
    assert ours == {key: value for key, value in original.items() if key not in follows}
    assert len(follows) == (2 if "swin2" in name else len(on_meta(name).pretrained.model.blocks))
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) / 1e6 == pytest.approx(
        MILLIONS[name], abs=0.006
    )


@pytest.mark.parametrize(("name", "height", "width"), GMAC)
def test_as_many_products_as_the_original(name, height, width):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        out = on_meta(name)(torch.zeros(1, 3, height, width))
    assert out.shape == (1, 1, height, width)
    assert counter.get_total_flops() / 2e9 == pytest.approx(GMAC[name, height, width], abs=0.06)


@pytest.mark.parametrize("name", MILLIONS)
def test_shapes_tell_which_it_is(name):
    shapes = {key: shape for key, (shape, _) in original_list(name).items()}
    assert [variant.name for variant in VARIANTS if variant.fits(shapes)] == [name]
    without = {key: shape for key, shape in shapes.items() if not key.endswith(get_variant(name).recomputed)}
    assert [variant.name for variant in VARIANTS if variant.fits(without)] == [name]


@pytest.fixture(scope="module")
def swin2_file(tmp_path_factory):
    """As published, with masks that follow from the grid, and as a trainer leaves it, beside its optimizer."""
    network = get_variant(SWIN2).build()
    seed(network, torch.Generator().manual_seed(0))
    state = network.state_dict()
    for key, (shape, _) in original_list(SWIN2).items():
        if key.endswith("attn_mask"):
            state[key] = torch.zeros(shape)
    folder = tmp_path_factory.mktemp("swin2")
    torch.save(state, folder / "dpt_swin2_tiny_256.pt")
    torch.save({"optimizer": {"state": {0: torch.zeros(3)}}, "model": state}, folder / "trained.pt")
    return folder


@pytest.mark.parametrize("file", ["dpt_swin2_tiny_256.pt", "trained.pt"])
def test_the_published_file_loads_as_it_is(swin2_file, file):
    checkpoint = read_checkpoint(swin2_file / file)
    assert detect_variant(checkpoint) == SWIN2
    network, _, report = load_network(swin2_file / file, get_variant(SWIN2))
    assert report.notes() == [] and report.loaded == len(network.state_dict())


def test_weights_of_another_encoder_are_refused(swin2_file):
    with pytest.raises(CheckpointError, match="checkpoint is midas-swin2-tiny-256, --model says midas-beit-base-384"):
        load_network(swin2_file / "trained.pt", get_variant(BEIT))
    with pytest.raises(CheckpointError, match="checkpoint is midas-swin2-tiny-256, --model says midas-swin2-base-384"):
        load_network(swin2_file / "trained.pt", get_variant("midas-swin2-base-384"))


def test_another_window_is_another_network():
    shapes = {key: shape for key, (shape, _) in original_list(SWIN2).items()}
    shapes["pretrained.model.layers.0.blocks.1.attn_mask"] = (64, 64, 64)
    assert not [variant for variant in VARIANTS if variant.fits(shapes)]


# --- the arithmetic, stated again: loops over patches and pairs, nothing of ours --------------------------------------


def small(encoder, **changes):
    config = next(each for each in CONFIGS if isinstance(each.encoder, encoder))
    network = Midas(replace(config, encoder=replace(config.encoder, **changes)))
    seed(network, torch.Generator().manual_seed(3))
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and name.endswith("bias"):
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    network.scratch.output_conv[4].bias.data.fill_(5.0)
    return network.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def small_beit():
    return small(BeitConfig, width=32, depth=4, heads=2, grid=3, hooks=(0, 1, 2, 3), levels=(8, 16, 24, 32))


@pytest.fixture(scope="module")
def small_swin2():
    return small(Swin2Config, width=12, depths=(2, 2, 2, 1), heads=(1, 2, 3, 4), window=4, coordinates=(4, 4, 4, 2))


def test_beit_stated_again(small_beit):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns, heads, trained = 4, 6, 2, 3
    state = {key.removeprefix("pretrained.model."): value for key, value in small_beit.state_dict().items()}
    patches = image.reshape(3, rows, 16, columns, 16).permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    tokens = patches @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    tokens = torch.cat((state["cls_token"][0], tokens))
    outputs = []
    for index in range(4):
        block = {
            key.removeprefix(f"blocks.{index}."): value
            for key, value in state.items()
            if key.startswith(f"blocks.{index}.")
        }
        table = block["attn.relative_position_bias_table"]
        side = 2 * trained - 1
        grid = table[:-3].T.reshape(1, heads, side, side)
        grid = F.interpolate(grid, size=(2 * rows - 1, 2 * columns - 1), mode="bilinear", align_corners=False)[0]
        bias = torch.zeros(heads, len(tokens), len(tokens), dtype=torch.float64)
        for query in range(rows * columns):
            for key in range(rows * columns):
                down = query // columns - key // columns + rows - 1
                across = query % columns - key % columns + columns - 1
                bias[:, 1 + query, 1 + key] = grid[:, down, across]
        bias[:, 0, 1:], bias[:, 1:, 0], bias[:, 0, 0] = table[-3][:, None], table[-2][:, None], table[-1]
        normed = F.layer_norm(tokens, (32,), block["norm1.weight"], block["norm1.bias"], 1e-6)
        query, key, value = (normed @ block["attn.qkv.weight"].T).chunk(3, dim=-1)
        query, value = query + block["attn.q_bias"], value + block["attn.v_bias"]
        mixed = []
        for head in range(heads):
            own = slice(16 * head, 16 * head + 16)
            logits = query[:, own] @ key[:, own].T / 4 + bias[head]
            mixed.append(logits.softmax(dim=-1) @ value[:, own])
        attended = torch.cat(mixed, dim=-1) @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        tokens = tokens + block["gamma_1"] * attended
        normed = F.layer_norm(tokens, (32,), block["norm2.weight"], block["norm2.bias"], 1e-6)
        hidden = F.gelu(normed @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"])
        tokens = tokens + block["gamma_2"] * (hidden @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"])
        outputs.append(tokens)
    for ours, theirs in zip(small_beit.pretrained.model(image), outputs, strict=True):
        torch.testing.assert_close(ours[0], theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("height", "width", "window", "shift"), [(8, 8, 4, (2, 2)), (4, 12, 4, (0, 2)), (6, 8, 4, (0, 2))]
)
def test_a_window_block_stated_again(small_swin2, height, width, window, shift):
    """Pixel by pixel: who sees whom, and with what bias. Grid 6 has no window of 4: one of 6, which needs no shift."""
    block = small_swin2.pretrained.model.layers[0].blocks[1]
    windows = windows_of((height, width), window, shifted=True)
    rows, columns = windows.size
    assert windows.shift == shift and (rows, columns) == ((6 if height == 6 else 4), 4)
    image = torch.randn(1, height, width, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = block.attn.state_dict()
    query, key, value = (image[0] @ state["qkv.weight"].T).chunk(3, dim=-1)
    query, value = F.normalize(query + state["q_bias"], dim=-1), value + state["v_bias"]
    key = F.normalize(key, dim=-1)

    def log_scaled(offset):
        share = 8 * offset / 3  # windows of 4 patches were trained on
        return math.copysign(math.log2(abs(share) + 1) / 3, share)

    def place(row, column):
        """(window, region) of a pixel: pixels that wrap around the border are of another region."""
        moved = (row - shift[0]) % height, (column - shift[1]) % width
        return moved[0] // rows, moved[1] // columns, row < shift[0], column < shift[1]

    mixed = torch.zeros_like(image[0])
    for row in range(height):
        for column in range(width):
            seen = [
                (down, across)
                for down in range(height)
                for across in range(width)
                if place(down, across) == place(row, column)
            ]
            offsets = torch.tensor(
                [[log_scaled(row - r), log_scaled(column - c)] for r, c in seen], dtype=torch.float64
            )
            bias = 16 * torch.sigmoid(block.attn.cpb_mlp(offsets))[:, 0]
            logits = torch.stack([query[row, column] @ key[r, c] for r, c in seen])
            logits = logits * state["logit_scale"].clamp(max=math.log(100)).exp()[0, 0, 0] + bias
            mixed[row, column] = logits.softmax(0) @ torch.stack([value[r, c] for r, c in seen])
    mixed = mixed @ state["proj.weight"].T + state["proj.bias"]
    expected = image[0] + block.norm1(mixed)
    expected = expected + block.norm2(block.mlp(expected))
    torch.testing.assert_close(block(image)[0], expected, rtol=1e-5, atol=1e-6)  # offsets are float32 in the original


def test_windows_are_cut_and_joined():
    windows = windows_of((8, 12), 4, shifted=True)
    image = torch.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    cut = partition(image, windows)
    assert torch.equal(cut[7].reshape(4, 4, 3), image[1, 0:4, 4:8])
    assert torch.equal(join(cut, windows), image)
    assert shift_mask(windows).shape == (6, 16, 16) and set(shift_mask(windows).unique().tolist()) == {0.0, -100.0}


def test_windows_follow_grids_that_they_do_not_tile():
    assert [window_side(grid, 16) for grid in (8, 16, 32, 24, 60, 40)] == [8, 16, 16, 24, 30, 20]
    with pytest.raises(ValueError, match="no window of 8 to 31 patches tiles an axis of 37"):
        window_side(37, 16)


def test_decoder_stated_again(small_beit):
    generator = torch.Generator().manual_seed(2)
    levels = [
        torch.randn(1, channels, 16 >> step, 24 >> step, generator=generator, dtype=torch.float64)
        for step, channels in enumerate((8, 16, 24, 32))
    ]
    state = small_beit.scratch.state_dict()

    def conv(x, name, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=padding)

    def residual(x, name):
        return x + conv(conv(x.relu(), f"{name}.conv1").relu(), f"{name}.conv2")

    def wider(x, size):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)

    maps = [conv(level, f"layer{number}_rn") for number, level in enumerate(levels, start=1)]
    path = maps[3]
    for number in (4, 3, 2, 1):
        name = f"refinenet{number}"
        path = path if number == 4 else path + residual(maps[number - 1], f"{name}.resConfUnit1")
        size = (32, 48) if number == 1 else maps[number - 2].shape[2:]
        path = conv(wider(residual(path, f"{name}.resConfUnit2"), size), f"{name}.out_conv", padding=0)
    out = conv(wider(conv(path, "output_conv.0"), (64, 96)), "output_conv.2").relu()
    expected = conv(out, "output_conv.4", padding=0).relu()
    torch.testing.assert_close(small_beit.scratch(levels), expected, rtol=1e-11, atol=1e-11)


# --- rewrites ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "name", "height", "width"),
    [("small_beit", BEIT, 64, 96), ("small_beit", BEIT, 32, 32), ("small_swin2", SWIN2, 128, 96),
     ("small_swin2", SWIN2, 32, 64)],
)  # fmt: skip
def test_rewrites_are_exact_one_by_one(which, name, height, width, request):
    import copy

    variant = get_variant(name)
    exportable = variant.exportable(copy.deepcopy(request.getfixturevalue(which)), "rgb").double().eval()
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = exportable(image)
    assert expected.std() > 1e-2 * expected.mean()
    size, rewritten = Size(width, height), set()

    def products():
        with FlopCounterMode(display=False) as counter:
            exportable(image)
        return counter.get_total_flops() // 4  # two images

    for rule_name, rule in rules_of(variant).items():
        before = products()
        saving = specialize(exportable, size, {rule_name: rule})[rule_name]
        if saving.modules:
            rewritten.add(rule_name)
            # The position network runs once per call, not once per image.
            once = saving.macs // 2 if rule_name == "window_attention" else saving.macs
            assert before - products() == once, rule_name
        assert float((exportable(image) - expected).abs().max() / expected.max()) <= EXACT, rule_name
    shared = {"input_normalization", "convolution_before_upsample", "linear_layout"}
    own = {"relative_attention", "branch_scale", "class_token_readout", "phase_convolution"}
    assert rewritten == shared | (own if name == BEIT else {"window_attention"})


# --- processing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "camera", "options", "network"),
    [
        (BEIT, "640x480", {}, "512x384"),
        (BEIT, "1242x375", {}, "1280x384"),
        (BEIT, "480x640", {}, "384x512"),
        ("midas-beit-large-512", "640x480", {}, "672x512"),
        (SWIN2, "640x480", {}, "256x256"),
        (BEIT, "640x480", {"preprocessing": "muggled", "aspect": True}, "384x288"),
        (BEIT, "640x480", {"preprocessing": "muggled"}, "384x384"),
        (SWIN2, "1242x375", {"preprocessing": "muggled", "aspect": True}, "256x64"),
        (SWIN2, "640x480", {"preprocessing": "muggled", "input_size": 400}, "384x384"),
    ],
)
def test_sizes_are_the_programs_own(name, camera, options, network):
    contract = get_variant(name).contract(name, Size.parse(camera), **options)
    assert str(contract.network) == network and contract.semantics is Semantics.RELATIVE_INVERSE_DEPTH


def test_sizes_that_cannot_be_are_refused():
    swin2 = get_variant(SWIN2)
    with pytest.raises(InputError, match="runs at 256x256 as published, got 384x384"):
        swin2.contract(SWIN2, Size(640, 480), 384)
    with pytest.raises(InputError, match="no window of 8 to 31 patches tiles an axis of 148"):
        swin2.contract(SWIN2, Size(640, 480), 1184, preprocessing="muggled")
    with pytest.raises(InputError, match="less than half of 32 pixels"):
        get_variant(BEIT).contract(BEIT, Size(4000, 10), 384)


@pytest.mark.parametrize("preprocessing", ["midas", "muggled"])
def test_frames_go_in_and_come_back_as_the_program_does_it(preprocessing):
    contract = get_variant(BEIT).contract(BEIT, Size(100, 75), 64, preprocessing=preprocessing, aspect=False)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (75, 100, 3), np.uint8)
    image = preprocess(Frame(rgb), contract)["image"]
    raw = 1000 * (rng.random((1, 1, contract.network.height, contract.network.width)) < 0.5).astype(np.float32)
    back = at_camera_size(raw, contract)
    planes = torch.tensor(rgb).permute(2, 0, 1)[None].double()
    size = (contract.network.height, contract.network.width)
    if preprocessing == "muggled":
        expected = F.interpolate(planes, size=size, mode="bilinear", antialias=True) / 255
        np.testing.assert_allclose(image, expected.numpy(), atol=1e-6)
        wanted = F.interpolate(torch.tensor(raw), size=(75, 100), mode="bilinear")
    else:
        wanted = F.interpolate(torch.tensor(raw).double(), size=(75, 100), mode="bicubic", align_corners=False)
        assert back.min() < 0, "undershoot is the original's"
    np.testing.assert_allclose(back, wanted[0, 0].numpy(), atol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "cdm-vits", "--preprocessing", "muggled"), "cdm-vits has one way of processing images"),
        (("--model", BEIT, "--preprocessing", "dpt"), "midas-beit-base-384 has midas or muggled"),
        (("--model", BEIT, "--aspect"), "belongs to --preprocessing muggled"),
        (("--model", "cdm-vits", "--aspect"), "follows its own rule"),
        (("--model", SWIN2, "--input-size", "384"), "let windows follow the size: --preprocessing muggled"),
        (("--model", BEIT, "--iterations", "4"), "has none to choose"),
        (("--model", "raft-stereo", "--iterations", "0"), "from 1 to 100, got 0"),
        (("--model", "raft-stereo-realtime", "--camera", "64x48"), "images of at least 128x1, got 64x64"),
    ],
)
def test_words_that_do_not_fit_the_model_are_refused(arguments, words, tmp_path):
    camera = () if "--camera" in arguments else ("--camera", "640x480")
    refused(cli("export", "--random-weights", 0, *arguments, *camera, "-o", tmp_path / "x.bundle"), 2, words)
    assert not list(tmp_path.iterdir())
