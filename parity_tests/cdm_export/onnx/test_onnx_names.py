"""Names in an exported graph are the network's, and nothing of the exporting machine is left in it."""

import onnx
import pytest

from cdm_export.runtimes.bundle import Bundle


@pytest.fixture(scope="module")
def graph(small_bundle):
    bundle = Bundle.open(small_bundle)
    return onnx.load(bundle.artifact_file(bundle.manifest.artifacts[0])).graph


def test_nodes_are_called_after_their_module(graph):
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert "pretrained.blocks.3.attn.qkv/MatMul" in names
    assert sum(name.endswith("attn.core/Softmax") for name in names) == 24


def test_what_a_module_hands_on_is_called_after_it(graph):
    written = {output: node for node in graph.node for output in node.output}
    for encoder in ("pretrained", "depth_pretrained"):
        for block in range(12):
            assert written[f"{encoder}.blocks.{block}"].name.startswith(f"{encoder}.blocks.{block}/Add")
    assert written["depth_head_rgbd.scratch.output_conv1"].op_type == "Conv"


def test_no_trace_of_the_exporting_machine(small_bundle, graph):
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    content = (small_bundle / "onnx" / "fp32.onnx").read_bytes()
    for trace in (b"stack_trace", b"convert.py", str(small_bundle.parent).encode()):
        assert trace not in content
