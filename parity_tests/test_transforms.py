"""Every rewrite is exact: float64 before and after agree to rounding, on weights where an error would show."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cdm_export.coreml_export import coreml_rules
from cdm_export.onnx_export import export_onnx
from cdm_export.transforms import NEEDS, RULES, specialise
from cdm_export.transforms.fused_attention import FusedCore
from reference_model.cdm.network import TokenPairFusion
from reference_model.vit import DinoV2, SelfAttention
from runtimes.contract import Size
from runtimes.coreml_target import TARGETS

ROWS, COLUMNS = 5, 7
EXACT = 1e-13


@pytest.fixture(params=["mlp", "swiglu"])
def network(request, mini_variant):
    """Float64 network behind its boundary, every parameter random: no bias zero, no scale one."""
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
    return mini_variant.on_boundary(network, "bgr").double()


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
        assert RULES[needed](network, ROWS, COLUMNS).modules > 0
    expected = network(*inputs)
    assert expected.std() > 1e-3, "an output that does not vary proves nothing"
    before = multiply_adds(network, inputs)
    saving = RULES[rule](network, ROWS, COLUMNS)
    assert saving.modules > 0, "the rule found nothing to rewrite"
    assert relative_error(network(*inputs), expected) <= EXACT
    assert saving.macs == before - multiply_adds(network, inputs)


@pytest.mark.parametrize("target", ["macos14", "macos15"])
def test_the_rules_for_core_ml_are_exact(target, network, inputs):
    expected = network(*inputs)
    rules = coreml_rules(TARGETS[target])
    savings = specialise(network, ROWS, COLUMNS, rules)
    assert set(savings) == set(rules) == set(RULES) - {"linear_layout"}
    assert all(saving.modules for saving in savings.values())
    assert relative_error(network(*inputs), expected) <= EXACT
    fused = [module for module in network.modules() if isinstance(module, FusedCore)]
    assert len(fused) == (8 if target == "macos15" else 0)


def test_all_rules_together_are_exact(network, inputs):
    expected = network(*inputs)
    before = multiply_adds(network, inputs)
    savings = specialise(network, ROWS, COLUMNS)
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
    for name, apply in RULES.items():
        claimed[name] = apply(network, ROWS, COLUMNS).nodes
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
    savings = specialise(network, rows, columns)
    assert relative_error(network(*inputs), expected) <= EXACT
    assert sum(saving.macs for saving in savings.values()) == before - multiply_adds(network, inputs)


def test_rgb_order_is_folded_too(mini_variant, network, inputs):
    rgb = mini_variant.on_boundary(copy.deepcopy(network.network), "rgb").double()
    expected = rgb(*inputs)
    assert relative_error(expected, network(*inputs)) > 1e-6, "the orders must differ for this test to mean anything"
    RULES["input_normalisation"](rgb, ROWS, COLUMNS)
    assert relative_error(rgb(*inputs), expected) <= EXACT


def test_position_embedding_is_the_original_call_not_a_resize(network):
    """The 0.1 offset moves the embedding; a plain resize to the same size must differ."""
    encoder = next(module for module in network.modules() if isinstance(module, DinoV2))
    grid = encoder.pos_embed[:, 1:].float().reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    plain = torch.nn.functional.interpolate(grid, size=(ROWS, COLUMNS), mode="bicubic", align_corners=False)
    ours = encoder.position(encoder.pos_embed, ROWS, COLUMNS)[:, 1:].reshape(1, ROWS, COLUMNS, -1).permute(0, 3, 1, 2)
    assert relative_error(plain.double(), ours.double()) > 1e-3


def test_folded_network_refuses_another_size(network, inputs):
    specialise(network, ROWS, COLUMNS)
    wider = [torch.nn.functional.pad(tensor, (0, 14)) for tensor in inputs]
    with pytest.raises(ValueError, match="folded for"):
        network(*wider)


def test_square_trained_grid_is_returned_as_it_is(network):
    encoder = next(module for module in network.modules() if isinstance(module, DinoV2))
    assert encoder.position(encoder.pos_embed, 37, 37) is encoder.pos_embed
