"""What an engine is made of: read from TensorRT-RTX's log, and asserted on engines it builds here without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from cdm_export.tensorrt.layers import EngineLayer, operator, parse_layers, summarize

# From builds of cdm-vits, half and with attention cores in float32 (1.7.1.116); strides and most formats are left out.
LOG = """\
[INFO] Engine generation completed in 3.61 seconds.
[VERBOSE] Layers:
Name: __myl_CastConc_myl0_0, LayerType: kgen, Inputs: [ { Name: inverse_depth, Dimensions: [1,1,518,686], \
Datatype: Float, Format: (Linear) Row major linear format }], Constants: [ { Name: __mye257043_myl0, \
Dimensions: [1,1,518,686], Datatype: Half, Format: (NHWC) Channel major format }], Outputs: [ { \
Name: patch_embed.proj.1_3_myl0, Dimensions: [1,2,518,686], Datatype: Half, Format: (NHWC) Channel major format }], \
TacticName: __myl_CastConc_0xcdb056ca180c8fb7af58c3223bb3e056, StreamId: 0, \
Metadata: [ONNX Layer: Cast_2][ONNX Layer: depth_pretrained.patch_embed.proj/Conv]
Name: __mye250646+__mye250634+__mye250622_myl0_3, LayerType: gemm, Inputs: [ { Name: __myln_k_arg__bb1_7_myl0, \
Dimensions: [1,1814,384], Datatype: Half, Format: (Linear) Row major linear format }], Constants: [ { \
Name: __mye257057_dconst_myl0, Dimensions: [1,384,1152], Datatype: Half }, { Name: __mye259527_const_myl0, \
Dimensions: [1], Datatype: Float }], Outputs: [ { Name: __mye1_myl0, Dimensions: [1,1814,1152], Datatype: Half }], \
TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: depth_pretrained.blocks.0.attn.qkv/MatMul]
Name: _gemm_mha_v2_myl0_7, LayerType: kgen, Inputs: [ { Name: __mye256306_12_myl0, Dimensions: [6,1814,64], \
Datatype: Half, Format: (Arbitrary) Format with stride order = [1,2,0] }, { Name: __mye256306_11_myl0, Dimensions: \
[6,64,1814], Datatype: Half }, { Name: __mye256306_10_myl0, Dimensions: [6,1814,64], Datatype: Half }], \
Constants: [], Outputs: [ { Name: __mye256306_myl0, Dimensions: [6,1814,64], Datatype: Half }], \
TacticName: _gemm_mha_v2_0x1d32c119a5eac5d879a2233db80f8af1, StreamId: 0, Metadata: [ONNX Layer: \
depth_pretrained.blocks.0.attn.core/MatMul_2][ONNX Layer: depth_pretrained.blocks.0.attn.core/Softmax]\
[ONNX Layer: depth_pretrained.blocks.0.attn.core/MatMul]
Name: __myl_FcCast_myl0_9, LayerType: runtime_fusion, Inputs: [ { Name: Softmax_output.1_myl0, Dimensions: \
[6,1814,1814], Datatype: Float }, { Name: __mye2_myl0, Dimensions: [6,1814,64], Datatype: Float }], Constants: [], \
Outputs: [ { Name: __mye3_myl0, Dimensions: [6,1814,64], Datatype: Half }], TacticName: __myl_FcCast_0x1, \
StreamId: 0, Metadata: [ONNX Layer: depth_pretrained.blocks.1.attn.core/MatMul_2]\
[ONNX Layer: depth_pretrained.blocks.1.attn.core/Cast_4]
Name: __mye203799_myl0_6, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
EventId: 1, Metadata:
Name: __mye203801_myl0_7, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, \
EventId: 1, Metadata:
Name: __myl_Tran_myl0_317, LayerType: kgen, Inputs: [ { Name: __mye4_myl0, Dimensions: [1,1,518,686], Datatype: \
Half }], Constants: [], Outputs: [ { Name: out, Dimensions: [1,1,518,686], Datatype: Half }], TacticName: \
__myl_Tran_0x2, StreamId: 1, Metadata:

I/O Tensors:
 Name: image, IOMode: Input, DataType: Float, Dimensions: [1,3,518,686], Location: Device
"""


def test_log_becomes_layers():
    layers = parse_layers(LOG)
    assert [layer.kind for layer in layers] == ["kgen", "gemm", "kgen", "runtime_fusion", "kgen"]
    cast, qkv, attention, product, transpose = layers
    assert cast == EngineLayer(
        name="__myl_CastConc_myl0_0",
        kind="kgen",
        inputs=("Float",),
        outputs=("Half",),
        nodes=("Cast_2", "depth_pretrained.patch_embed.proj/Conv"),
        stream=0,
        tactic="__myl_CastConc_0xcdb056ca180c8fb7af58c3223bb3e056",
    )
    assert not cast.is_product, "it only prepares the convolution's input"
    assert qkv.is_product and qkv.precision == "Half", "float32 constants of one element are scales, not weights"
    assert attention.is_fused_attention and attention.is_product and attention.inputs == ("Half",) * 3
    assert product.precision == "Float" and product.modules == ("depth_pretrained.blocks.1.attn.core",)
    assert transpose.nodes == () and transpose.modules == ("__myl_Tran_myl0_317",)


def test_summary():
    summary = summarize(parse_layers(LOG))
    assert summary.kernels == 5, "signals and waits between streams are no kernels"
    assert summary.streams == 2
    assert summary.by_kind == {
        "gemm": {"Half": 1},
        "kgen": {"Float": 1, "Half": 2},
        "runtime_fusion": {"Float": 1},
    }
    assert summary.attention == ("depth_pretrained.blocks.0.attn.core",)
    assert summary.float32_products == ("depth_pretrained.blocks.1.attn.core",)


def test_a_kind_that_is_not_known_hides_no_product():
    layer = EngineLayer("mystery", "new_kind", ("Float",), ("Float",), ("head.conv/Conv_2",), 0)
    assert layer.is_product and summarize([layer]).float32_products == ("head.conv",)


def test_a_module_called_mha_is_no_fused_attention():
    assert not EngineLayer("network.mha.proj/MatMul_myl0_1", "gemm", ("Half",), ("Half",), (), 0).is_fused_attention


def test_a_log_without_a_table_has_no_layers():
    assert parse_layers("[ERROR] nothing was built\n Name: image, IOMode: Input") == ()


def test_operator_of_a_node():
    assert [operator(name) for name in ("a.b/MatMul_2", "a/Conv", "Cast_12")] == ["MatMul", "Conv", "Cast"]


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """cdm-vitt, rewritten, in plain half, exported in a process of its own."""
    pytest.importorskip("tensorrt_rtx_bindings")
    path = tmp_path_factory.mktemp("rtx") / "half.onnx"
    command = [sys.executable, "-m", "benchmarks.rtx_layers", "half", "cdm-vitt", str(path), "640x480", "266"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_every_encoder_block_gets_one_fused_attention_kernel(half, tmp_path):
    from benchmarks.rtx_layers import build_on_cpu

    summary = summarize(build_on_cpu(half, tmp_path / "build.log").layers)
    assert sorted(summary.attention) == sorted(
        f"{encoder}.blocks.{block}.attn.core" for encoder in ("pretrained", "depth_pretrained") for block in range(12)
    )
    assert summary.float32_products == ()


def test_what_cannot_be_parsed_is_reported_with_the_node(tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    import onnx
    from onnx import TensorProto, helper

    from benchmarks.rtx_layers import build_on_cpu
    from cdm_export.runtimes.errors import CdmExportError

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], "head/NoSuchOperator")
    graph = helper.make_graph([node], "graph", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "odd.onnx")
    with pytest.raises(CdmExportError, match="head/NoSuchOperator"):
        build_on_cpu(tmp_path / "odd.onnx", tmp_path / "build.log")
