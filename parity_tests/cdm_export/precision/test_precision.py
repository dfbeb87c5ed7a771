"""FP16 and BF16: what is typed how, arithmetic that overflows, planted activations, and the audit of the graph."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from cdm_export.coreml.convert import coreml_plan
from cdm_export.onnx.audit import audit
from cdm_export.onnx.convert import export_onnx
from cdm_export.precision.original_path import WRAPPED, original_path
from cdm_export.precision.plan import LARGEST_FP16, MARGIN, plan
from cdm_export.precision.range_scan import RangeScan
from cdm_export.precision.rounded import RoundedProducts
from cdm_export.precision.typed_modules import type_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.runtimes.backends import BACKENDS, load_runtime
from cdm_export.runtimes.bundle import Bundle, State
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import BackendUnavailable, CdmExportError, ParityError
from cdm_export.runtimes.graph_precision import Island, IslandKind, PrecisionPlan
from cdm_export.runtimes.host import cpu_features
from cdm_export.runtimes.selection import choose, executions
from cdm_export.transforms import rules_of, specialize
from parity_tests.conftest import cli

ROWS, COLUMNS = 5, 7
CONTRACT = get_variant("cdm-vits").contract("cdm-vits", Size(14 * COLUMNS, 14 * ROWS), 14 * ROWS)
RULES = rules_of(get_variant("cdm-vits"))


@pytest.fixture
def network(mini_variant):
    """A miniature CDM on its interface whose output varies over the frame."""
    torch.manual_seed(0)
    network = mini_variant.build().eval().requires_grad_(False)
    network.depth_head_rgbd.scratch.output_conv2[2].bias.fill_(3.0)
    return mini_variant.exportable(network, "bgr").eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(1, channels, 14 * ROWS, 14 * COLUMNS, generator=generator) for channels in (3, 1))


def typed(network, variant, inputs, precision="fp16"):
    """Scan, plan and type in place; the plan."""
    specialize(network, CONTRACT.network, RULES)
    with torch.inference_mode(), RangeScan() as scan:
        network(*inputs)
    precision_plan = plan(network.network, scan.max_abs, variant.precision, precision)
    return type_network(network, precision_plan, CONTRACT)


def run_typed(network, inputs):
    with torch.inference_mode(), RoundedProducts():
        return network(*inputs)


def plant(network, value, block=1):
    """One channel of what a block's MLP adds becomes ``value``, whatever comes in."""
    network.network.pretrained.blocks[block].mlp.fc2.bias[3] = value


def test_products_are_rounded_once_and_overflow():
    left, right, bias = torch.randn(4, 64), torch.randn(64, 8), torch.randn(8)
    low = [tensor.half() for tensor in (left, right, bias)]
    with torch.inference_mode(), RoundedProducts():
        product, summed = low[0] @ low[1], low[0] @ low[1] + low[2]
        beyond = torch.full((1, 4), 300.0).half() @ torch.full((4, 1), 300.0).half()
    exact = low[0].float() @ low[1].float()
    assert torch.equal(product, exact.half())
    assert torch.equal(summed, (exact + low[2].float()).half())
    assert beyond.dtype == torch.float16 and beyond.isinf().all()


def test_same_as_half_arithmetic_of_pytorch(network, mini_variant, inputs):
    typed(network, mini_variant, inputs)
    with torch.inference_mode():
        native = network(*inputs)
    fast = run_typed(network, inputs)
    assert fast.dtype == native.dtype == torch.float32
    assert float((fast / native - 1).abs().max()) < 2e-3


def test_ranges_are_those_of_the_modules(network, inputs):
    specialize(network, CONTRACT.network, RULES)
    seen = []
    module = network.network.pretrained.blocks[1].mlp.fc1
    module.register_forward_hook(lambda module, args, output: seen.append(float(output.abs().max())))
    with torch.inference_mode(), RangeScan() as scan:
        network(*inputs)
    assert scan.max_abs["pretrained.blocks.1.mlp.fc1"] >= seen[0] > 0
    assert "depth_head_rgbd.scratch.output_conv1" in scan.max_abs and all(map(np.isfinite, scan.max_abs.values()))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_harmless_ranges_keep_only_the_declared_islands(network, mini_variant, inputs, precision):
    expected = network(*inputs)
    precision_plan = typed(network, mini_variant, inputs, precision)
    assert bool(precision_plan.residuals) == (precision == "bf16")
    assert {island.module for island in mini_variant.precision.islands} <= {
        island.module for island in precision_plan.islands
    }
    reads_fp32 = {"pretrained.patch_embed.proj"} if precision == "fp16" else set()
    assert set(precision_plan.inputs) == reads_fp32 and not precision_plan.products
    got = run_typed(network, inputs)
    error = float((got / expected - 1).abs().mean())
    assert 1e-6 < error < (1e-3 if precision == "fp16" else 1e-2), "typed as nothing, or wrongly"


@pytest.mark.parametrize(
    ("value", "wide"),
    [(4e3, False), (8e4, True), (2e5, True)],
)
def test_planted_activations_end_finite_and_right(network, mini_variant, inputs, value, wide):
    plant(network, value)
    network.network.pretrained.blocks[1].ls2.gamma.fill_(1.0)
    expected = network(*inputs)
    assert expected.isfinite().all() and expected.std() > 1e-4
    precision_plan = typed(network, mini_variant, inputs)
    assert ("pretrained.blocks.1" in precision_plan.residuals) == wide
    if wide:
        assert f"{value:.3g}"[:1] in precision_plan.residuals["pretrained.blocks.1"]
        assert precision_plan.computes_in_fp32("pretrained.blocks.1.mlp.fc2")
    got = run_typed(network, inputs)
    assert got.isfinite().all()
    assert float((got / expected - 1).abs().mean()) < 1e-3


def test_a_branch_that_overflows_inside_hands_on_half(network, mini_variant, inputs):
    """What enters fc2 is too large, what leaves it is not: the branch is an island, the residual stream stays half."""
    mlp = network.network.pretrained.blocks[1].mlp
    mlp.fc1.bias[0], mlp.fc2.weight[:, 0] = 8e4, 1e-6
    expected = network(*inputs)
    precision_plan = typed(network, mini_variant, inputs)
    (island,) = [island for island in precision_plan.islands if island.module == "pretrained.blocks.1.mlp"]
    assert island.output_dtype == "low" and not precision_plan.residuals
    got = run_typed(network, inputs)
    assert network.network.pretrained.blocks[1](torch.zeros(1, 2, 64).half()).dtype == torch.float16
    assert float((got / expected - 1).abs().mean()) < 1e-3


def test_without_the_plan_a_planted_activation_overflows(network, mini_variant, inputs):
    """What the scan is for: the same network typed as if nothing were large."""
    for block in (0, 1, 2, 3):
        plant(network, 6e4, block)
        network.network.pretrained.blocks[block].ls2.gamma.fill_(1.0)
    specialize(network, CONTRACT.network, RULES)
    type_network(network, plan(network.network, {}, mini_variant.precision, "fp16"), CONTRACT)
    assert not run_typed(network, inputs).isfinite().all()


def test_what_no_island_covers_is_refused(network, mini_variant, inputs):
    network.network.depth_head_rgbd.scratch.layer1_rn.weight.mul_(1e7)
    with pytest.raises(ParityError, match=r"depth_head_rgbd.*cannot be typed as FP16") as refused:
        typed(network, mini_variant, inputs)
    assert "--precision fp32" in refused.value.next_step


def test_nan_in_the_ranges_is_not_small(network, mini_variant):
    specialize(network, CONTRACT.network, RULES)
    precision_plan = plan(network.network, {"pretrained.blocks.2": float("nan")}, mini_variant.precision, "fp16")
    assert "pretrained.blocks.2" in precision_plan.residuals
    assert LARGEST_FP16 / MARGIN == 16376


def test_weights_beyond_fp16_are_refused(network, mini_variant):
    specialize(network, CONTRACT.network, RULES)
    network.network.depth_head_rgbd.scratch.output_conv1.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ParityError, match=r"output_conv1\.weight reaches 1e"):
        type_network(network, plan(network.network, {}, mini_variant.precision, "fp16"), CONTRACT)


@pytest.fixture(scope="module")
def artifacts(typed_bundle):
    return {artifact.precision: artifact for artifact in Bundle.open(typed_bundle).manifest.artifacts}


def test_bundle_holds_every_graph_with_its_verdicts(artifacts):
    assert list(artifacts) == ["fp32", "fp16", "fp16-attn32", "bf16"]
    assert {verdict.backend for verdict in artifacts["fp16"].verdicts} == {"torch", "onnxruntime"}
    ran = {verdict.backend for verdict in artifacts["bf16"].verdicts}
    for artifact in artifacts.values():
        assert all(verdict.verdict == "passed" for verdict in artifact.verdicts)
    assert artifacts["fp16"].state is State.PUBLISHED
    assert "torch" in ran and artifacts["bf16"].state is (State.PUBLISHED if "openvino" in ran else State.CANDIDATE)
    assert artifacts["bf16"].opset == 22 and artifacts["fp16"].opset == 18


def test_graph_is_typed_as_planned(artifacts):
    graph, precision_plan = artifacts["fp16"].graph, artifacts["fp16"].precision_plan
    assert graph is not None and precision_plan is not None
    assert set(graph.nodes["MatMul"]) == {"FLOAT16"}
    assert graph.nodes["Conv"]["FLOAT"] == 2, "inverse depth's patch embedding and the last convolution"
    assert set(graph.nodes["LayerNormalization"]) == {"FLOAT"}
    assert "unexplained" not in graph.casts and sum(graph.casts.values()) == sum(graph.nodes["Cast"].values())
    assert graph.weights_mb["FLOAT16"] > 50 * graph.weights_mb["FLOAT"]
    whole = artifacts["fp32"].graph
    assert whole is not None and "Cast" not in whole.nodes


def test_bf16_is_the_products_inside_the_encoders_blocks(artifacts):
    graph, precision_plan = artifacts["bf16"].graph, artifacts["bf16"].precision_plan
    assert graph is not None and precision_plan is not None
    assert graph.nodes["MatMul"]["BFLOAT16"] == 24 * 6, "qkv, scores, values, projection, and two of the MLP"
    assert set(graph.nodes["Conv"]) == {"FLOAT"} and precision_plan.computes_in_fp32(
        "depth_head_rgbd.scratch.output_conv1"
    )
    assert "unexplained" not in graph.casts


def test_second_graph_has_fp32_attention_and_the_same_weights(typed_bundle, artifacts):
    first, second = artifacts["fp16"], artifacts["fp16-attn32"]
    assert first.graph is not None and second.graph is not None
    assert second.graph.nodes["Softmax"] == {"FLOAT": 24} and first.graph.nodes["Softmax"] == {"FLOAT16": 24}
    assert second.graph.nodes["MatMul"]["FLOAT"] == 48
    (data,) = {record.path for record in first.files} & {record.path for record in second.files}
    assert data == "onnx/fp16.onnx.data"
    assert (typed_bundle / "onnx" / "fp16-attn32.onnx").stat().st_size < 2e6


class Holder(torch.nn.Module):
    """A network's own part that calls its child as casting modules once called theirs."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, image):
        return self.module(image)


def test_an_attribute_called_module_keeps_its_place(network, mini_variant, inputs, tmp_path):
    """In the plan, in the names of the graph, in the audit, and for the bisect."""
    scratch = network.network.depth_head_rgbd.scratch
    scratch.output_conv1 = Holder(scratch.output_conv1)
    path = "depth_head_rgbd.scratch.output_conv1.module"
    island = Island(kind=IslandKind.DECLARED, module=path, reason="a test", output_dtype="low")
    policy = replace(mini_variant.precision, islands=(*mini_variant.precision.islands, island))
    precision_plan = typed(network, replace(mini_variant, precision=policy), inputs)
    contract = mini_variant.contract("cdm-vits", Size(160, 120), 70)
    export_onnx(network, contract, tmp_path / "fp16.onnx")
    names = {node.name for node in onnx.load(tmp_path / "fp16.onnx").graph.node}
    assert {f"{path}/Conv", f"{path}/Cast"} <= names and not any(WRAPPED in name for name in names)
    found = audit(tmp_path / "fp16.onnx", precision_plan)
    assert found.casts["a test"] == 2
    modules = {original_path(name) for name, _ in network.network.named_modules()}
    assert path in modules and f"{path}.module" not in modules


def test_kinds_of_islands_decide_not_their_words(network, mini_variant, inputs):
    """Reworded reasons must not bring sixty FP32 casts back to Core ML; old manifests had only the reasons."""
    precision_plan = typed(network, mini_variant, inputs)
    norms = [island for island in precision_plan.islands if island.kind is IslandKind.LAYER_NORM]
    assert len(norms) == sum(isinstance(module, torch.nn.LayerNorm) for module in network.modules()) > 0
    reworded = tuple(
        island.model_copy(update={"reason": f"because: {island.reason}"}) for island in precision_plan.islands
    )
    kept = coreml_plan(precision_plan.model_copy(update={"islands": reworded})).islands
    assert len(kept) == len(precision_plan.islands) - len(norms)
    old = json.loads(precision_plan.model_dump_json())
    for island in old["islands"]:
        del island["kind"]
    assert len(coreml_plan(PrecisionPlan.model_validate(old)).islands) == len(kept)


@pytest.mark.parametrize("operator", ["MatMul", "Cast"])
def test_audit_refuses_what_was_not_planned(typed_bundle, artifacts, tmp_path, operator):
    model = onnx.load(typed_bundle / "onnx" / "fp16.onnx", load_external_data=False)
    precision_plan = artifacts["fp16"].precision_plan
    assert audit(typed_bundle / "onnx" / "fp16.onnx", precision_plan) == artifacts["fp16"].graph
    name = "pretrained.blocks.2.mlp.fc1/MatMul"
    (node,) = [node for node in model.graph.node if node.name == name]
    place = list(model.graph.node).index(node)
    casts = [
        onnx.helper.make_node("Cast", [source], [f"wide.{index}"], f"pretrained.blocks.2.mlp.fc1/Cast{index}", to=1)
        for index, source in enumerate(node.input)
    ]
    back = onnx.helper.make_node("Cast", ["wide"], [node.output[0]], "pretrained.blocks.2.mlp.fc1/Cast", to=10)
    node.input[:], node.output[:] = ["wide.0", "wide.1"], ["wide"]
    if operator == "MatMul":  # the casts are explained, the product is not
        assert precision_plan is not None
        explained = {**precision_plan.inputs, "pretrained.blocks.2.mlp.fc1": "planted"}
        precision_plan = precision_plan.model_copy(update={"inputs": explained})
    nodes = list(model.graph.node)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend([*nodes[:place], *casts, node, back, *nodes[place + 1 :]])
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(CdmExportError, match=f"fc1/{operator}"):
        audit(tmp_path / "wrong.onnx", precision_plan)


def test_inspect_shows_types_islands_and_casts(typed_bundle):
    shown = cli("inspect", typed_bundle)
    assert shown.returncode == 0
    for expected in ("LayerNorm statistics", "FLOAT16", "inverse depth reaches 1000", "casts:", "multiply-adds"):
        assert expected in shown.stdout, expected


def test_onnxruntime_refuses_bf16(typed_bundle, small_bundle):
    for bundle in (typed_bundle, small_bundle):
        done = cli("verify", bundle, "--backend", "onnxruntime", "--precision", "bf16")
        assert done.returncode == 3 and "does not run bf16" in done.stderr and "--backend openvino" in done.stderr
    ran = cli(
        "run", small_bundle, "--input", "synthetic:1", "--backend", "onnxruntime", "--precision", "bf16", "-o", "x"
    )
    assert ran.returncode == 3 and "does not run bf16" in ran.stderr


def test_bf16_in_openvino_is_the_typed_graph_or_a_hint(typed_bundle, small_bundle):
    for path, expected in ((typed_bundle, "bf16"), (small_bundle, "fp32")):
        (run,) = [made for made, computed in executions(Bundle.open(path), BACKENDS["openvino"]) if computed == "bf16"]
        assert run.precision == expected


def test_typed_bf16_graph_is_computed_in_bf16_or_not_at_all(typed_bundle):
    bundle, backend = Bundle.open(typed_bundle), BACKENDS["openvino"]
    try:
        runtime = load_runtime(backend, typed_bundle / "onnx" / "bf16.onnx", bundle.manifest.contract, "bf16")
    except BackendUnavailable as error:
        assert "no bf16 arithmetic" in error.message and "avx512_bf16" not in cpu_features()
        return
    products = runtime.describe().executed["products_by_kernel"]
    count = {kind: sum(n for kernel, n in products.items() if kernel.split()[0] == kind) for kind in ("bf16", "f32")}
    assert count["bf16"] >= 96, "the encoders' linear layers"
    assert count["f32"] >= 16, "the islands"


@pytest.mark.skipif("avx512_bf16" in cpu_features(), reason="this CPU computes it in BF16")
def test_bf16_graph_that_would_be_computed_in_fp32_is_refused(typed_bundle, monkeypatch):
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda self, device, name: ["BF16"])
    contract = Bundle.open(typed_bundle).manifest.contract
    with pytest.raises(BackendUnavailable, match="would compute in f32"):
        load_runtime(BACKENDS["openvino"], typed_bundle / "onnx" / "bf16.onnx", contract, "bf16")


def test_reduced_precision_is_taken_only_after_it_passed_here(typed_bundle):
    bundle = Bundle.open(typed_bundle)
    assert choose(bundle).precision == "fp32"
    assert not choose(bundle, "openvino", "bf16").local
    done = cli("verify", typed_bundle, "--json")
    report = json.loads(done.stdout)
    verdicts = {(one["backend"], one["precision"]): one["verdict"]["verdict"] for one in report["parity"]}
    assert done.returncode == 0 and report["passed"]
    assert {("onnxruntime", "fp16"), ("onnxruntime", "fp16-attn32"), ("openvino", "fp32")} <= set(verdicts)
    chosen = choose(Bundle.open(typed_bundle))
    assert chosen.local and verdicts[chosen.backend.name, chosen.precision] == "passed"


@pytest.mark.parametrize(
    ("precision", "against"), [("fp16", "torch:fp32"), ("fp16", "torch:fp16"), ("fp16-attn32", "torch:fp32")]
)
def test_bisect_of_typed_graphs(typed_bundle, precision, against):
    done = cli(
        "verify", typed_bundle, "--bisect", "--precision", precision, "--against", against, "--json",
        "--checkpoint", bundled_checkpoint("cdm-vitt"),
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["verdict"] == "inside" and report["candidate"] == f"onnxruntime {precision}"
    errors = [stage["measure"]["relative"] for stage in report["stages"] if stage["measure"]]
    assert len(errors) > 30 and 1e-6 < max(errors) < 5e-3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--precision", "fp15"), 2, "no fp15 artifact"),
        (("--backend", "torch", "--precision", "fp16"), 3, "--bisect --backend torch"),
        (("--against", "torch:fp32"), 2, "belongs to --bisect"),
        (("--bisect", "--against", "torch"), 2, "BACKEND:PRECISION"),
        (("--bisect", "--against", "torch:fp15"), 2, "no network typed as fp15"),
        (("--bisect", "--against", "onnxruntime:fp16"), 2, "compared with itself"),
    ],
)
def test_wrong_words_to_verify(typed_bundle, arguments, code, words):
    done = cli("verify", typed_bundle, *arguments)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr


def test_typing_survives_its_json(artifacts):
    precision_plan = artifacts["fp16"].precision_plan
    assert (
        precision_plan is not None
        and PrecisionPlan.model_validate_json(precision_plan.model_dump_json()) == precision_plan
    )


def test_what_is_large_inside_a_declared_island_is_no_reason_to_refuse():
    """It computes in FP32 there; a single layer that hands on too much is still told."""
    from cdm_export.reference_model.policies import PrecisionPolicy

    network = torch.nn.Sequential()
    network.add_module("sums", torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
    island = Island(kind=IslandKind.DECLARED, module="sums", reason="sums that divide", output_dtype="low")
    made = plan(network, {"sums": 3e4, "sums.0": 3e4}, PrecisionPolicy(islands=(island,)), "fp16")
    assert [one.module for one in made.islands] == ["sums"]
