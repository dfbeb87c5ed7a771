"""Every rewrite is exact: float64 before and after agree to rounding, on weights where an error would show."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cdm_export.coreml.convert import coreml_rules
from cdm_export.onnx.convert import export_onnx
from cdm_export.reference_model.backbones.policies import DINO_IMAGE
from cdm_export.reference_model.backbones.vit import DinoV2, SelfAttention
from cdm_export.reference_model.cdm.network import RepeatChannels, TokenPairFusion
from cdm_export.reference_model.cdm.rewrites import NEEDS
from cdm_export.reference_model.exportable import ExportableNetwork, ImageNormalization
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.rewriting import apply_rule
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.coreml_target import TARGETS
from cdm_export.transforms import fused_attention, rules_of, specialize, specialize_for
from cdm_export.transforms.fused_attention import FusedCore

ROWS, COLUMNS = 5, 7
SIZE = Size(14 * COLUMNS, 14 * ROWS)
RULES = rules_of(get_variant("cdm-vits"))
EXACT = 1e-13


@pytest.fixture(params=["mlp", "swiglu"])
def network(request, mini_variant):
    """Float64 network behind its interface, every parameter random: no bias zero, no scale one."""
    torch.manual_seed(0)
    network = mini_variant.build(request.param).eval().requires_grad_(False).double()
    for name, parameter in network.named_parameters():
        if name.endswith("gamma") or (parameter.ndim == 1 and "norm" in name and name.endswith("weight")):
            parameter.uniform_(0.5, 1.5)
        elif parameter.ndim == 1:
            parameter.normal_(0, 0.3)
        elif name.endswith(("pos_embed", "cls_token")):
            parameter.normal_(0, 1)
    network.depth_head_rgbd.scratch.output_conv2[2].bias.fill_(5.0)
    return mini_variant.exportable(network, "bgr").double()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 14 * ROWS, 14 * COLUMNS, generator=generator, dtype=torch.float64)
    depth = torch.rand(1, 1, 14 * ROWS, 14 * COLUMNS, generator=generator, dtype=torch.float64)
    return image, depth


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).abs().max() / other.abs().max()).item())


def multiply_adds(network, inputs) -> int:
    """Counted while it runs; the fused MultiheadAttention is one operator that the counter does not know."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            network(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("rule", RULES)
def test_rule_alone_is_exact_and_saves_what_it_says(rule, network, inputs):
    for needed in NEEDS.get(rule, ()):
        assert apply_rule(RULES[needed], network, SIZE).modules > 0
    expected = network(*inputs)
    assert expected.std() > 1e-3, "an output that does not vary proves nothing"
    before = multiply_adds(network, inputs)
    saving = apply_rule(RULES[rule], network, SIZE)
    assert saving.modules > 0, "the rule found nothing to rewrite"
    assert relative_error(network(*inputs), expected) <= EXACT
    assert saving.macs == before - multiply_adds(network, inputs)


@pytest.mark.parametrize("target", ["macos14", "macos15"])
def test_the_rules_for_core_ml_are_exact(target, network, inputs):
    expected = network(*inputs)
    contract = get_variant("cdm-vits").contract("cdm-vits", SIZE, min(SIZE))
    savings = specialize_for(contract, network, **coreml_rules(TARGETS[target]))
    assert contract.network == SIZE and set(savings) == set(RULES) - {"linear_layout"}
    assert all(saving.modules for saving in savings.values())
    assert relative_error(network(*inputs), expected) <= EXACT
    fused = [module for module in network.modules() if isinstance(module, FusedCore)]
    assert len(fused) == (8 if target == "macos15" else 0)


def test_all_rules_together_are_exact(network, inputs):
    expected = network(*inputs)
    before = multiply_adds(network, inputs)
    savings = specialize(network, SIZE, RULES)
    assert set(savings) == set(RULES) and all(saving.modules for saving in savings.values())
    assert relative_error(network(*inputs), expected) <= EXACT
    assert sum(saving.macs for saving in savings.values()) == before - multiply_adds(network, inputs)
    assert not any(isinstance(module, SelfAttention | TokenPairFusion) for module in network.modules())


@pytest.mark.parametrize("network", ["mlp"], indirect=True)
@pytest.mark.parametrize("each", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_graph_has_as_many_nodes_less_as_the_rules_say(each, network, mini_variant, tmp_path):
    """After all rules, or after every one in turn; a rule's claim holds at its place in the order."""
    import onnx

    contract = mini_variant.contract("cdm-vits", Size(160, 120), 70)
    assert (contract.network.height, contract.network.width) == (14 * ROWS, 14 * COLUMNS)

    def nodes() -> int:
        export_onnx(copy.deepcopy(network).float(), contract, tmp_path / "graph.onnx")
        return len(onnx.load(tmp_path / "graph.onnx").graph.node)

    first = before = nodes()
    claimed, seen = {}, {}
    for name, rule in RULES.items():
        claimed[name] = apply_rule(rule, network, SIZE).nodes
        if each:
            after = nodes()
            seen[name], before = before - after, after
    assert sum(claimed.values()) == first - nodes()
    assert not each or claimed == seen


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (2, 3), (6, 2)])
def test_borders_are_exact_on_every_grid(rows, columns, network):
    """Grids of one patch are all border; odd ones round the coarsest level up."""
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.rand(1, n, 14 * rows, 14 * columns, generator=generator, dtype=torch.float64) for n in (3, 1)]
    expected = network(*inputs)
    before = multiply_adds(network, inputs)
    savings = specialize(network, Size(14 * columns, 14 * rows), RULES)
    assert relative_error(network(*inputs), expected) <= EXACT
    assert sum(saving.macs for saving in savings.values()) == before - multiply_adds(network, inputs)


def test_rgb_order_is_folded_too(mini_variant, network, inputs):
    rgb = mini_variant.exportable(copy.deepcopy(network.network), "rgb").double()
    expected = rgb(*inputs)
    assert relative_error(expected, network(*inputs)) > 1e-6, "the orders must differ for this test to mean anything"
    apply_rule(RULES["input_normalization"], rgb, SIZE)
    assert relative_error(rgb(*inputs), expected) <= EXACT


def test_position_embedding_is_the_original_call_not_a_resize(network):
    """The 0.1 offset moves the embedding; a plain resize to the same size must differ."""
    encoder = next(module for module in network.modules() if isinstance(module, DinoV2))
    grid = encoder.pos_embed[:, 1:].float().reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    plain = torch.nn.functional.interpolate(grid, size=(ROWS, COLUMNS), mode="bicubic", align_corners=False)
    ours = encoder.position(encoder.pos_embed, ROWS, COLUMNS)[:, 1:].reshape(1, ROWS, COLUMNS, -1).permute(0, 3, 1, 2)
    assert relative_error(plain.double(), ours.double()) > 1e-3


def test_folded_network_refuses_another_size(network, inputs):
    specialize(network, SIZE, RULES)
    wider = [torch.nn.functional.pad(tensor, (0, 14)) for tensor in inputs]
    with pytest.raises(ValueError, match="folded for"):
        network(*wider)


def test_square_trained_grid_is_returned_as_it_is(network):
    encoder = next(module for module in network.modules() if isinstance(module, DinoV2))
    assert encoder.position(encoder.pos_embed, 37, 37) is encoder.pos_embed


def _convolution(**changed):
    settings = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 2}
    return torch.nn.Conv2d(**{**settings, **changed}).double()


def _cnn(stem):
    """A network of another kind behind the interface, with a stem where the rule looks for one."""
    network = torch.nn.Module()
    network.pretrained = torch.nn.Module()
    network.pretrained.patch_embed = torch.nn.Module()
    network.pretrained.patch_embed.proj = stem
    network.forward = lambda image: network.pretrained.patch_embed.proj(image)
    return ExportableNetwork(network, "bgr", DINO_IMAGE).double().eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        (_convolution(padding=1), "padding (1, 1), the rule is exact for (0, 0)"),
        (_convolution(padding="same", stride=1), "padding same"),
        (_convolution(bias=False), "no bias"),
        (_convolution(groups=3, out_channels=6), "groups 3"),
        (torch.nn.Linear(3, 4), "no convolution but Linear"),
    ],
)
def test_normalization_is_not_folded_where_that_is_not_exact(stem, reason):
    network = _cnn(stem)
    before = copy.deepcopy(network)
    savings = specialize(network, SIZE, RULES)
    assert savings["input_normalization"].modules == 0 and reason in savings["input_normalization"].skipped
    assert isinstance(network.normalize, ImageNormalization)
    if isinstance(stem, torch.nn.Conv2d):
        image = torch.rand(1, 3, 20, 20, dtype=torch.float64)
        assert torch.equal(network(image), before(image)), "a rule that does not apply must leave the network alone"


def test_normalization_is_folded_into_any_stem_without_padding():
    network, image = _cnn(_convolution()), torch.rand(1, 3, 20, 20, dtype=torch.float64)
    expected = network(image)
    assert specialize(network, SIZE, RULES)["input_normalization"].modules == 1
    assert relative_error(network(image), expected) <= EXACT


def test_a_network_without_any_of_it_is_left_alone():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).double()
    before = copy.deepcopy(network.state_dict())
    savings = specialize(network, SIZE, RULES)
    assert all(saving.skipped and not saving.modules for saving in savings.values()), savings
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def _swap(network, path, module):
    parent, _, name = path.rpartition(".")
    setattr(network.network.get_submodule(parent), name, module.double().requires_grad_(False))


def _with_wide_kernel(network, path):
    old = network.network.get_submodule(path)
    _swap(network, path, torch.nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1))


def _biased_level(network):
    _with_wide_kernel(network, "depth_head_rgbd.scratch.layer1_rn")


def _wide_projection(network):
    _with_wide_kernel(network, "depth_head_rgbd.scratch.refinenet2.out_conv")


def _wide_reader(network):
    _with_wide_kernel(network, "depth_head_rgbd.projects.1")


def _other_scale(network):
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.scale *= 0.5


def _other_layer_before_scale(network):
    class Doubled(torch.nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.inner = mlp

        def forward(self, tokens):
            return 2 * self.inner(tokens)

    block = network.network.pretrained.blocks[0]
    block.mlp = Doubled(block.mlp)


def test_a_layer_in_two_places_is_rewritten_once(network, inputs):
    """Scaled twice, a shared attention would be silently wrong."""
    blocks = network.network.pretrained.blocks
    blocks[1].attn = blocks[0].attn
    blocks[1].mlp = blocks[0].mlp
    for block in blocks[:2]:
        block.ls1, block.ls2 = torch.nn.Identity(), torch.nn.Identity()
    expected = network(*inputs)
    specialize(network, SIZE, RULES)
    assert relative_error(network(*inputs), expected) <= EXACT


def _second_reader(network):
    network.network.extra = RepeatChannels()


@pytest.mark.parametrize(
    ("change", "rule", "reason"),
    [
        (_biased_level, "phase_convolution", "layer1_rn has a bias"),
        (_wide_projection, "convolution_before_upsample", "refinenet2.out_conv has kernel_size (3, 3)"),
        (_wide_reader, "fusion_projection", "kernel_size (3, 3), the rule is exact for (1, 1)"),
        (_other_scale, "explicit_attention", "scale"),
        (_other_layer_before_scale, "layer_scale", "what stands before network.pretrained.blocks.0.ls2 is not known"),
        (_second_reader, "depth_channel_sum", "what reads network.extra is not known"),
    ],
)
def test_a_rule_refuses_what_it_is_not_exact_for(change, rule, reason, network, inputs):
    """Each of these networks would be rewritten into another one; the others of the rules stay exact on it."""
    change(network)
    expected = network(*inputs)
    rules = {**RULES, "explicit_attention": fused_attention} if change is _other_scale else RULES
    savings = specialize(network, SIZE, rules)
    assert savings[rule].modules == 0 and reason in savings[rule].skipped, savings[rule]
    assert relative_error(network(*inputs), expected) <= EXACT
