"""Depth Anything as a network: the originals' arithmetic stated again, rewrites, types and processing."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_export.precision.plan import plan
from cdm_export.precision.range_scan import RangeScan
from cdm_export.precision.rounded import RoundedProducts
from cdm_export.precision.typed_modules import type_network
from cdm_export.reference_model.config import DptConfig, VitConfig
from cdm_export.reference_model.depth_anything.config import DepthAnythingConfig
from cdm_export.reference_model.depth_anything.network import DepthAnything
from cdm_export.reference_model.random_weights import calibrate_range, seeded_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import Semantics, Size
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import at_camera_size, output, postprocess, preprocess
from cdm_export.transforms import SHARED, specialize

V1, V2 = "depth-anything-v1-vits", "depth-anything-v2-vits"
INDOOR, OUTDOOR = "depth-anything-v2-metric-indoor-vits", "depth-anything-v2-metric-outdoor-vits"
EXACT = 1e-13


# --- the arithmetic, stated again: plain functions over a state dict, nothing of ours ---------------------------------


def stated_again(state, image, heads, hooks, max_depth=None):
    """RGB 0..1 [1, 3, H, W] -> [1, 1, H, W], from the published description alone."""
    mean, std = (image.new_tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    levels, rows, columns = encoder(state, (image - mean) / std, heads, hooks)
    head = {
        name.removeprefix("depth_head."): tensor for name, tensor in state.items() if name.startswith("depth_head.")
    }

    def conv(x, name, **options):
        return F.conv2d(x, head[f"{name}.weight"], head.get(f"{name}.bias"), **options)

    def residual(x, name):
        return x + conv(conv(x.relu(), f"{name}.conv1", padding=1).relu(), f"{name}.conv2", padding=1)

    maps = []
    for index, tokens in enumerate(levels):
        grid = conv(tokens.mT.reshape(1, -1, rows, columns), f"projects.{index}")
        weight, bias = head.get(f"resize_layers.{index}.weight"), head.get(f"resize_layers.{index}.bias")
        if index < 2:
            grid = F.conv_transpose2d(grid, weight, bias, stride=4 >> index)
        elif index == 3:
            grid = F.conv2d(grid, weight, bias, stride=2, padding=1)
        maps.append(conv(grid, f"scratch.layer{index + 1}_rn", padding=1))
    path = torch.zeros_like(maps[3])
    for index in (3, 2, 1, 0):
        name = f"scratch.refinenet{index + 1}"
        path = maps[3] if index == 3 else path + residual(maps[index], f"{name}.resConfUnit1")
        size = maps[index - 1].shape[2:] if index else [2 * side for side in maps[0].shape[2:]]
        path = conv(corner_aligned(residual(path, f"{name}.resConfUnit2"), size), f"{name}.out_conv")
    full = corner_aligned(conv(path, "scratch.output_conv1", padding=1), (14 * rows, 14 * columns))
    out = conv(conv(full, "scratch.output_conv2.0", padding=1).relu(), "scratch.output_conv2.2")
    return out.relu() if max_depth is None else out.sigmoid() * max_depth


def encoder(state, image, heads, hooks):
    """Normalized patch tokens of the hooked blocks, and the grid."""
    get = {name.removeprefix("pretrained."): tensor for name, tensor in state.items() if name.startswith("pretrained.")}
    rows, columns = image.shape[2] // 14, image.shape[3] // 14
    patches = image.reshape(3, rows, 14, columns, 14).permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    tokens = patches @ get["patch_embed.proj.weight"].flatten(1).T + get["patch_embed.proj.bias"]
    table = get["pos_embed"][0]
    if (rows, columns) != (37, 37):
        grid = table[1:].T.reshape(1, -1, 37, 37)
        # A scale of (n + 0.1) / 37 gives n cells, but samples them as if there were a tenth more.
        scales = ((rows + 0.1) / 37, (columns + 0.1) / 37)
        grid = F.interpolate(grid, scale_factor=scales, mode="bicubic", align_corners=False)
        table = torch.cat((table[:1], grid[0].flatten(1).T))
    x = torch.cat((get["cls_token"][0], tokens)) + table
    width, levels = x.shape[1], []

    def norm(x, name):
        centerd = x - x.mean(1, keepdim=True)
        spread = (centerd.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return centerd / spread * get[f"{name}.weight"] + get[f"{name}.bias"]

    def linear(x, name):
        return x @ get[f"{name}.weight"].T + get[f"{name}.bias"]

    for index in range(1 + max(hooks)):
        block = f"blocks.{index}"
        query, key, value = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=1)
        mixed = []
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width // heads)
            mixed.append(scores.softmax(1) @ value[:, part])
        x = x + get[f"{block}.ls1.gamma"] * linear(torch.cat(mixed, 1), f"{block}.attn.proj")
        inner = norm(x, f"{block}.norm2")
        if f"{block}.mlp.w12.weight" in get:
            gate, kept = linear(inner, f"{block}.mlp.w12").chunk(2, dim=1)
            inner = linear(gate * gate.sigmoid() * kept, f"{block}.mlp.w3")
        else:
            wide = linear(inner, f"{block}.mlp.fc1")
            inner = linear(wide * (1 + torch.erf(wide / math.sqrt(2))) / 2, f"{block}.mlp.fc2")
        x = x + get[f"{block}.ls2.gamma"] * inner
        if index in hooks:
            levels.append(norm(x, "norm")[1:])
    return levels, rows, columns


def corner_aligned(image, size):
    """Bilinear; the first and the last pixel of both grids coincide."""

    def weights(count, wanted):
        places = torch.arange(wanted, dtype=image.dtype) * (count - 1) / (wanted - 1)
        return (1 - (places[:, None] - torch.arange(count, dtype=image.dtype)).abs()).clamp(min=0)

    return weights(image.shape[2], size[0]) @ image @ weights(image.shape[3], size[1]).T


HOOKS = {V1: (8, 9, 10, 11), V2: (2, 5, 8, 11), INDOOR: (2, 5, 8, 11), OUTDOOR: (2, 5, 8, 11)}
DEPTHS = {V1: None, V2: None, INDOOR: 20.0, OUTDOOR: 80.0}


@pytest.fixture(scope="module")
def seeded():
    """``seeded(model)``: a network with the one set of weights they all can have, calibrated for the model, and the
    image of a real frame that it was calibrated on."""
    from cdm_export.runtimes.sources import open_source

    frame = open_source("sample", camera=Size(160, 120)).load(0).frame
    image = torch.from_numpy(preprocess(frame, get_variant(V2).contract(V2, Size(160, 120), 70))["image"])
    state = seeded_network(get_variant(V2), 0).state_dict()
    made = {}

    def make(model):
        if model not in made:
            variant = get_variant(model)
            with torch.device("meta"):
                network = variant.build()
            own = {name: tensor.clone() if "output_conv2.2" in name else tensor for name, tensor in state.items()}
            network.load_state_dict(own, strict=True, assign=True)
            network.eval().requires_grad_(False)
            calibrate_range(network, variant, "rgb", (image,), 0)
            made[model] = network
        return made[model], image

    return make


@pytest.mark.parametrize("model", HOOKS)
def test_network_is_the_published_one(seeded, model):
    network, image = seeded(model)
    variant = get_variant(model)
    with torch.inference_mode():
        got = variant.exportable(network, "rgb").eval()(image)
        expected = stated_again(network.state_dict(), image, 6, HOOKS[model], DEPTHS[model])
    spread = float(expected.max() - expected.min())
    assert got.shape == (1, 1, 70, 98) and spread > 1
    assert float((got - expected).abs().max()) <= 1e-5 * spread
    if DEPTHS[model]:
        assert float(got.min()) > 0 and float(got.max()) < DEPTHS[model]


def test_giant_feed_forward_is_the_published_one():
    torch.manual_seed(0)
    network = DepthAnything(
        DepthAnythingConfig(VitConfig(64, 2, 2, (0, 1), "swiglu"), DptConfig(16, (8, 12, 16, 20)), None)
    )
    network = network.double().eval()
    state = {name: torch.randn_like(tensor) * 0.3 for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    image = torch.rand(1, 3, 70, 98, dtype=torch.float64)
    levels, _, _ = encoder(state, image, 2, (0, 1))
    got = network.pretrained(image)
    assert all(torch.allclose(one[0], other, rtol=1e-5, atol=1e-5) for one, other in zip(got, levels, strict=True))


def test_v1_weights_in_v2_load_and_are_wrong(seeded):
    """What cannot be known: every tensor fits, and the depth is another one. So it must be said which it is."""
    network, image = seeded(V1)
    other = get_variant(V2).build()
    other.load_state_dict(network.state_dict(), strict=True)
    with torch.inference_mode():
        right = get_variant(V1).exportable(network, "rgb").eval()(image)
        wrong = get_variant(V2).exportable(other, "rgb").eval()(image)
    assert float((right - wrong).abs().max()) > 0.01 * float(right.max() - right.min())


# --- rewrites and types -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[None, 20.0], ids=["relative", "metric"])
def miniature(request):
    """Float64 network behind its interface, every parameter random."""
    torch.manual_seed(0)
    last = "relu" if request.param is None else "sigmoid"
    sizes = VitConfig(64, 4, 1, (0, 1, 2, 3)), DptConfig(16, (8, 12, 16, 20), last)
    network = DepthAnything(DepthAnythingConfig(*sizes, request.param)).eval().requires_grad_(False).double()
    for name, parameter in network.named_parameters():
        if name.endswith("gamma") or (parameter.ndim == 1 and "norm" in name and name.endswith("weight")):
            parameter.uniform_(0.5, 1.5)
        elif parameter.ndim == 1 or name.endswith(("pos_embed", "cls_token")):
            parameter.normal_(0, 0.3)
    network.depth_head.scratch.output_conv2[2].bias.fill_(3.0 if request.param is None else -2.0)
    return get_variant(V2).exportable(network, "rgb").double()


def test_rewrites_are_exact(miniature):
    image = torch.rand(1, 3, 70, 98, dtype=torch.float64)
    with torch.inference_mode():
        before = miniature(image)
        savings = specialize(miniature, Size(98, 70), SHARED)
        after = miniature(image)
    assert before.std() > 1e-3
    assert float((before - after).abs().max() / before.abs().max()) <= EXACT
    assert {name for name, saving in savings.items() if saving.modules} == set(SHARED)


def test_typed_fp16_keeps_the_last_steps_in_fp32(miniature):
    network = miniature.float()
    image = torch.rand(1, 3, 70, 98)
    seen = []
    with torch.inference_mode():
        expected = network(image)
        specialize(network, Size(98, 70), SHARED)
        with RangeScan() as scan:
            network(image)
        policy = get_variant(V2).precision
        contract = get_variant(V2).contract(V2, Size(98, 70), 70)
        type_network(network, plan(network.network, scan.max_abs, policy, "fp16"), contract)
        last = network.network.depth_head.scratch.output_conv2
        for module in last:
            module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        with RoundedProducts():
            got = network(image)
    assert seen[:2] == [torch.float16] * 2 and set(seen[2:]) == {torch.float32} and got.dtype == torch.float32
    assert 1e-7 < float((got - expected).abs().mean() / expected.abs().mean()) < 1e-3


# --- processing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", [(640, 480), (480, 640), (1080, 1920), (1000, 90), (90, 1000), (37, 512)])
def test_inputs_equal_the_originals_steps(camera):
    """Portrait and odd aspect ratios too: image / 255 in float64, the resize rule by itself, cubic."""
    from cdm_export.runtimes.processing.image import BOUND

    width, height = camera
    contract = get_variant(V2).contract(V2, Size(*camera), 70)
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    scale = max(70 / width, 70 / height)
    sides = [int(np.round(scale * side / 14) * 14) for side in camera]
    sides = [
        side if side >= 70 else int(np.ceil(scale * length / 14) * 14)
        for side, length in zip(sides, camera, strict=True)
    ]
    expected = cv2.resize(rgb / 255.0, sides, interpolation=cv2.INTER_CUBIC)
    inputs = preprocess(Frame(rgb), contract)
    assert list(inputs) == ["image"] and contract.network == tuple(sides)
    assert np.abs(inputs["image"][0].transpose(1, 2, 0) - expected).max() <= BOUND


@settings(max_examples=150)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 90), st.integers(1, 90), st.booleans())
def test_resize_back_is_pytorchs(rows, columns, height, width, corners):
    raw = np.random.default_rng(rows).random((rows, columns), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(raw)[None, None], (height, width), mode="bilinear", align_corners=corners)
    resize = output.RESIZES["bilinear_corners" if corners else "bilinear"]
    got = resize(raw, Size(width, height))
    assert got.dtype == np.float32 and np.abs(got - expected[0, 0].numpy()).max() <= 2e-6


def test_contracts_say_what_the_numbers_are():
    relative, metric = (get_variant(model).contract(model, Size(160, 120), 70) for model in (V1, OUTDOOR))
    assert relative.semantics is Semantics.RELATIVE_INVERSE_DEPTH and not relative.metric
    assert (relative.output_resize, metric.output_resize) == ("bilinear", "bilinear_corners")
    assert metric.semantics is Semantics.METRIC_DEPTH and metric.far == 80 and metric.outputs[0].unit == "m, 0..80"
    assert not relative.reads("depth") and not metric.reads("depth") and relative.channel_order == "rgb"
    assert get_variant(OUTDOOR).contract(OUTDOOR, Size(160, 120), 70, far=30.0).far == 30


def test_validity_of_meters_and_of_what_has_none():
    raw = np.array([[[[1.0, 79.0, 80.0, np.nan, np.inf, 0.0]]]], np.float32)
    size = {"camera": Size(6, 1), "network": Size(6, 1)}
    metric = get_variant(OUTDOOR).contract(OUTDOOR, Size(160, 120), 70).model_copy(update=size)
    depth, valid = postprocess(raw, metric)
    assert valid.tolist() == [[True, True, False, False, False, False]] and depth[0].tolist() == [1, 79, 0, 0, 0, 0]
    relative = get_variant(V2).contract(V2, Size(160, 120), 70).model_copy(update=size)
    values, valid = postprocess(raw, relative)
    assert valid.tolist() == [[True, True, True, False, False, True]] and values[0].tolist() == [1, 79, 80, 0, 0, 0]
    assert np.array_equal(at_camera_size(raw, relative)[0], raw[0, 0, 0], equal_nan=True)
