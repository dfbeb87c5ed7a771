"""Checks of an engine: passed, failed or unknown, never taken for granted."""

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


def judged(layers, precision="fp16", attentions=ATTENTIONS, precision_plan=TYPING, tf32=False, fusion_broken=False):
    layer_report = gather(
        layers, "engine inspector", precision, precision_plan, attentions, tf32=tf32, fusion_broken=fusion_broken
    )  # fmt: skip
    return layer_report, [check.outcome for check in layer_report.checks]


def test_inspector_of_every_spelling():
    layers = parse_inspector(json.dumps(INSPECTED))
    assert [(one.kind, one.precision, one.is_product, one.is_fused_attention) for one in layers] == [
        ("kgen", "Half", True, True),
        ("CaskConvolution", "Float", True, False),
        ("Reformat", "Float", False, False),
        ("gemm", "Half", True, False),
    ]
    assert layers[0].nodes == ("blocks.0.attn.core/MatMul", "blocks.0.attn.core/Softmax")
    layer_report, outcomes = judged(layers, attentions=ATTENTIONS[:1])
    assert outcomes == ["passed", "passed", "passed"] and layer_report.source == "engine inspector"


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"Layers": ["conv1", "conv2"]}', "{}"])
def test_inspector_that_tells_nothing_proves_nothing(text):
    layers = parse_inspector(text)
    assert layers == ()
    layer_report, outcomes = judged(layers)
    assert outcomes == ["unknown", "passed", "unknown"]  # TF32 is proven by the flag that was read back
    assert layer_report.source == "none" and not layer_report.broken and not layer_report.costly


def test_float32_product_outside_the_islands():
    layer_report, outcomes = judged([layer(), layer("head.conv/Conv", "correlation", "Float"), MHA, MHA])
    assert outcomes[0] == "passed" and layer_report.float32_products == ("head.conv",)
    layer_report, outcomes = judged([layer(), layer("blocks.3.mlp.fc2/MatMul", "gemm", "Float"), MHA, MHA])
    assert outcomes[0] == "failed" and layer_report.broken[0].detail == "1 of 4 do not: blocks.3.mlp.fc2 (Float)"
    assert judged([layer(type_="Float"), MHA, MHA], precision_plan=None)[1][0] == "failed"


def test_half_product_in_a_float32_engine():
    assert judged([layer(type_="Float")], "fp32")[1] == ["passed", "passed"]
    layer_report, outcomes = judged([layer(type_="Float"), layer()], "fp32")
    assert outcomes[0] == "failed" and layer_report.broken


def test_bf16_engine_that_computes_in_half():
    assert judged([layer(type_="BFloat16"), MHA], "bf16", ())[1][0] == "failed"


def test_layer_without_types_leaves_it_open():
    layer_report, outcomes = judged([layer(), EngineLayer("x", "gemm", (), (), ("a.b/MatMul",), 0), MHA, MHA])
    assert outcomes[0] == "unknown" and not layer_report.broken
    assert judged([layer(), layer("{ForeignNode[a...b]}", "Myelin", "Float")])[1] == [
        "unknown", "passed", "unknown",
    ]  # fmt: skip


def test_tf32_by_flag_or_by_name_of_the_tactic():
    assert judged([layer(type_="Float")], "fp32", (), tf32=True)[1][1] == "failed"
    named, _ = judged([layer(type_="Float", tactic="sm80_xmma_gemm_f32f32_tf32f32")], "fp32", ())
    assert [check.outcome for check in named.broken] == ["failed"]
    assert judged([layer(type_="Float")], "tf32", (), tf32=True)[1] == ["passed", "passed"]


def test_unfused_attention_is_a_warning_with_its_cost():
    layer_report, outcomes = judged([layer(), MHA])
    assert outcomes[2] == "failed" and not layer_report.broken
    assert layer_report.costly[0].detail == (
        "1 of 2: the others write and read their probabilities, 100 MB more per frame"
    )  # fmt: skip


def test_fusion_that_was_to_be_broken_and_was_not():
    assert judged([layer(), MHA], fusion_broken=True)[0].broken
    assert judged([layer()], fusion_broken=True)[1][2] == "passed"


def test_integer_products():
    """What reads integers may add Half to them; what should and does not is right but slower, in float32 wrong."""
    names = ("blocks.0.mlp.fc1/MatMul", "blocks.0.mlp.fc2/MatMul")
    integer = EngineLayer(names[0], "gemm", ("Int8",), ("Half",), (names[0],), 0)
    added = EngineLayer(names[1], "runtime_fusion", ("Int8", "Half"), ("Half",), (names[1],), 0)
    modules = [name.rpartition("/")[0] for name in names]

    def outcomes(*layers):
        layer_report = gather(
            layers, "engine inspector", "int8-fp16", TYPING, ATTENTIONS[:1], tf32=False, fusion_broken=False,
            integers=modules,
        )  # fmt: skip
        return {check.name: check.outcome for check in layer_report.checks}, layer_report

    check = "every quantized product reads Int8"
    told, layer_report = outcomes(MHA, integer, added)
    assert set(told.values()) == {"passed"} and check in told and layer_report.float32_products == ()
    told, layer_report = outcomes(MHA, integer, layer(names[1]))
    assert told[check] == "failed" and not layer_report.broken and [one.name for one in layer_report.costly] == [check]
    assert "blocks.0.mlp.fc2" in layer_report.costly[0].detail
    again = layer(f"{names[0]}_2")
    assert outcomes(MHA, integer, added, again)[0][check] == "failed", "a module that runs twice has two products"
    _, layer_report = outcomes(MHA, integer, layer(names[1], type_="Float"))
    assert layer_report.broken
    assert outcomes()[0][check] == "unknown"
