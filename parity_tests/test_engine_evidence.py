"""Claims about an engine: proven, disproven or not visible, never taken for granted."""

import json

import pytest

from cdm_export.tensorrt.builder import Attention
from cdm_export.tensorrt.checks import gather
from cdm_export.tensorrt.layers import EngineLayer, parse_inspector
from parity_tests.engine_bundle import TYPING

ATTENTIONS = (Attention("blocks.0.attn.core/Softmax", 50_000_000), Attention("blocks.1.attn.core/Softmax", 50_000_000))
INSPECTED = {
    "Layers": [
        {"Name": "_gemm_mha_v2_myl0_3", "LayerType": "kgen", "StreamId": 0, "TacticName": "_gemm_mha_v2",
         "Inputs": [{"Name": "q", "Dimensions": [1], "Format/Datatype": "Half"}],
         "Outputs": [{"Name": "o", "Format/Datatype": "Half"}],
         "Metadata": "[ONNX Layer: blocks.0.attn.core/MatMul]\x1f[ONNX Layer: blocks.0.attn.core/Softmax]"},
        {"Name": "head.conv/Conv", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma_fprop_f32f32_f32",
         "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32 format"}],
         "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32 format"}],
         "Metadata": "[ONNX Layer: head.conv/Conv]"},
        {"Name": "reformat", "LayerType": "Reformat", "Inputs": [{"Name": "x", "Format/Datatype": "Float"}],
         "Outputs": [{"Name": "x", "Format/Datatype": "Half"}]},
        {"Name": "blocks.0.mlp.fc1/MatMul", "LayerType": "gemm", "TacticName": "sm80_xmma_gemm_f16f16_f16f32",
         "Inputs": [{"Name": "x", "DataType": "Half"}], "Outputs": [{"Name": "y", "DataType": "Half"}],
         "Metadata": "[ONNX Layer: blocks.0.mlp.fc1/MatMul]"},
        {"Name": "wait", "LayerType": "wait"},
    ],
    "Bindings": ["image"],
}  # fmt: skip


def layer(name="blocks.0.mlp.fc1/MatMul", kind="gemm", type_="Half", tactic=""):
    return EngineLayer(name, kind, (type_,), (type_,), (name,), 0, tactic)


MHA = EngineLayer("_gemm_mha_v2_myl0_1", "kgen", ("Half",), ("Half",), ("blocks.0.attn.core/MatMul",), 0)


def judged(layers, precision="fp16", attentions=ATTENTIONS, typing=TYPING, tf32=False, fusion_broken=False):
    evidence = gather(
        layers, "engine inspector", precision, typing, attentions, tf32=tf32, fusion_broken=fusion_broken
    )  # fmt: skip
    return evidence, [claim.outcome for claim in evidence.claims]


def test_inspector_of_every_spelling():
    layers = parse_inspector(json.dumps(INSPECTED))
    assert [(one.kind, one.precision, one.is_product, one.is_fused_attention) for one in layers] == [
        ("kgen", "Half", True, True),
        ("CaskConvolution", "Float", True, False),
        ("Reformat", "Float", False, False),
        ("gemm", "Half", True, False),
    ]
    assert layers[0].nodes == ("blocks.0.attn.core/MatMul", "blocks.0.attn.core/Softmax")
    evidence, outcomes = judged(layers, attentions=ATTENTIONS[:1])
    assert outcomes == ["proven", "proven", "proven"] and evidence.source == "engine inspector"


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"Layers": ["conv1", "conv2"]}', "{}"])
def test_inspector_that_tells_nothing_proves_nothing(text):
    layers = parse_inspector(text)
    assert layers == ()
    evidence, outcomes = judged(layers)
    assert outcomes == ["not visible", "proven", "not visible"]  # TF32 is proven by the flag that was read back
    assert evidence.source == "none" and not evidence.broken and not evidence.costly


def test_float32_product_outside_the_islands():
    evidence, outcomes = judged([layer(), layer("head.conv/Conv", "correlation", "Float"), MHA, MHA])
    assert outcomes[0] == "proven" and evidence.float32_products == ("head.conv",)
    evidence, outcomes = judged([layer(), layer("blocks.3.mlp.fc2/MatMul", "gemm", "Float"), MHA, MHA])
    assert outcomes[0] == "disproven" and evidence.broken[0].detail == "1 of 4 do not: blocks.3.mlp.fc2 (Float)"
    assert judged([layer(type_="Float"), MHA, MHA], typing=None)[1][0] == "disproven"


def test_half_product_in_a_float32_engine():
    assert judged([layer(type_="Float")], "fp32")[1] == ["proven", "proven"]
    evidence, outcomes = judged([layer(type_="Float"), layer()], "fp32")
    assert outcomes[0] == "disproven" and evidence.broken


def test_bf16_engine_that_computes_in_half():
    assert judged([layer(type_="BFloat16"), MHA], "bf16", ())[1][0] == "disproven"


def test_layer_without_types_leaves_it_open():
    evidence, outcomes = judged([layer(), EngineLayer("x", "gemm", (), (), ("a.b/MatMul",), 0), MHA, MHA])
    assert outcomes[0] == "not visible" and not evidence.broken
    assert judged([layer(), layer("{ForeignNode[a...b]}", "Myelin", "Float")])[1] == [
        "not visible", "proven", "not visible",
    ]  # fmt: skip


def test_tf32_by_flag_or_by_name_of_the_tactic():
    assert judged([layer(type_="Float")], "fp32", (), tf32=True)[1][1] == "disproven"
    named, _ = judged([layer(type_="Float", tactic="sm80_xmma_gemm_f32f32_tf32f32")], "fp32", ())
    assert [claim.outcome for claim in named.broken] == ["disproven"]
    assert judged([layer(type_="Float")], "tf32", (), tf32=True)[1] == ["proven", "proven"]


def test_unfused_attention_is_a_warning_with_its_cost():
    evidence, outcomes = judged([layer(), MHA])
    assert outcomes[2] == "disproven" and not evidence.broken
    assert evidence.costly[0].detail == (
        "1 of 2: the others write and read their probabilities, 100 MB more per frame"
    )  # fmt: skip


def test_fusion_that_was_to_be_broken_and_was_not():
    assert judged([layer(), MHA], fusion_broken=True)[0].broken
    assert judged([layer()], fusion_broken=True)[1][2] == "proven"


def test_integer_products():
    """What reads integers may add Half to them; what should and does not is right but slower, in float32 wrong."""
    names = ("blocks.0.mlp.fc1/MatMul", "blocks.0.mlp.fc2/MatMul")
    integer = EngineLayer(names[0], "gemm", ("Int8",), ("Half",), (names[0],), 0)
    added = EngineLayer(names[1], "runtime_fusion", ("Int8", "Half"), ("Half",), (names[1],), 0)
    modules = [name.rpartition("/")[0] for name in names]

    def outcomes(*layers):
        evidence = gather(
            layers, "engine inspector", "int8-fp16", TYPING, ATTENTIONS[:1], tf32=False, fusion_broken=False,
            integers=modules,
        )  # fmt: skip
        return {claim.claim: claim.outcome for claim in evidence.claims}, evidence

    claim = "every quantized product reads Int8"
    told, evidence = outcomes(MHA, integer, added)
    assert set(told.values()) == {"proven"} and claim in told and evidence.float32_products == ()
    told, evidence = outcomes(MHA, integer, layer(names[1]))
    assert told[claim] == "disproven" and not evidence.broken and [one.claim for one in evidence.costly] == [claim]
    assert "blocks.0.mlp.fc2" in evidence.costly[0].detail
    again = layer(f"{names[0]}_2")
    assert outcomes(MHA, integer, added, again)[0][claim] == "disproven", "a module that runs twice has two products"
    _, evidence = outcomes(MHA, integer, layer(names[1], type_="Float"))
    assert evidence.broken
    assert outcomes()[0][claim] == "not visible"
