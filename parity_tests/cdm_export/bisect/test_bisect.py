"""The first stage outside the tolerance is named: in graphs by hand, and in a real bundle with planted faults."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cdm_export.bisect import bisect_bundle, write_report
from cdm_export.bisect.compare import comparable, evaluator
from cdm_export.bisect.onnx_probe import OnnxProbe
from cdm_export.bisect.search import bisect, scan
from cdm_export.bisect.stages import stages_in_order
from cdm_export.bisect.torch_probe import TorchProbe
from cdm_export.parity.gates import GATES
from cdm_export.parity.golden import ReferenceFrame
from cdm_export.progress import Silent
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.sections import Section
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import Size, Sizing, TensorSpec
from cdm_export.runtimes.errors import BackendUnavailable, BundleError, InputError, ParityError

TOLERANCE = GATES["fp32"].p99
OUTPUT = "inverse_depth_refined"
SECTIONS = get_variant("cdm-vits").sections


# --- a graph of lower precision with its weights beside it ------------------------------------------------------------


@pytest.fixture
def half_graph(tmp_path, contract):
    """x -> half -> net.a -> net.b, net.c -> y: weights in a file beside the graph, interface float32."""
    weight = numpy_helper.from_array(np.full((1, 1, 64, 64), 2, np.float16), "weight")
    shape = [1, 1, 64, 64]
    nodes = [
        helper.make_node("Cast", ["x"], ["x/half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["x/half", "weight"], ["net.a"]),
        helper.make_node("Mul", ["net.a", "weight"], ["net.b"]),
        helper.make_node("Add", ["net.a", "weight"], ["net.c"]),
        helper.make_node("Add", ["net.b", "net.c"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["net.a"], ["net.unused"]),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight],
        value_info=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in ("net.a", "net.b", "net.c")
        ],
    )
    path = tmp_path / "half.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="half.data", size_threshold=0)
    frame = tmp_path / "frame.npz"
    np.savez(frame, x=np.full(shape, 3, np.float32), rgb=np.zeros(1))
    size, depth = Size(64, 64), contract.inputs[1].processing
    tiny = contract.model_copy(
        update={
            "inputs": (TensorSpec(name="x", shape=tuple(shape), unit="", source="depth", processing=depth),),
            "outputs": (TensorSpec(name="y", shape=tuple(shape), unit=""),),
            "network": size, "content": size, "sizing": Sizing(rule="camera", multiple=1),
        }
    )  # fmt: skip
    return path, tiny, frame


def test_half_values_are_shown_in_float32(half_graph, tmp_path):
    path, contract, frame = half_graph
    for backend in ("onnxruntime", "openvino"):
        scratch = tmp_path / backend
        scratch.mkdir()
        probe = OnnxProbe(path, contract, backend, "fp32", frame, scratch)
        assert set(probe.stages) == {"net.a", "net.b", "net.c", "y"}
        outputs = probe.outputs(["net.c", "net.a", "y"])
        assert [float(outputs[name].flat[0]) for name in ("net.a", "net.c", "y")] == [6, 8, 20]
        assert all(array.dtype == np.float32 and array.shape == (1, 1, 64, 64) for array in outputs.values())
        assert not list(scratch.rglob("*.onnx")) and not list(scratch.rglob("*.data"))
    assert sorted(file.name for file in path.parent.glob("half.*")) == ["half.data", "half.onnx"]
    with pytest.raises(InputError, match=r"half\.onnx has no value named 'net\.z'"):
        probe.outputs(["net.z"])


def test_weights_outside_the_folder_are_refused(half_graph, tmp_path):
    path, contract, frame = half_graph
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../half.data"
    onnx.save(model, path)
    with pytest.raises(BundleError, match="outside its folder"):
        OnnxProbe(path, contract, "onnxruntime", "fp32", frame, tmp_path).outputs(["net.a"])


def test_order_and_readers_come_from_the_graph(half_graph):
    stages = stages_in_order(
        half_graph[0], ["net.c", "net.b", "net.a", "net.unused"], (Section("all", ("net.*",)),), "y"
    )
    assert [(stage.name, stage.after) for stage in stages] == [
        ("net.a", ()),
        ("net.b", ("net.a",)),
        ("net.c", ("net.a",)),
        ("y", ("net.b", "net.c")),
    ]


def test_a_star_stands_for_one_name():
    encoder = SECTIONS[0]
    assert encoder.holds("pretrained.blocks.11")
    assert not encoder.holds("pretrained.blocks.11.norm1") and not encoder.holds("depth_pretrained.blocks.11")


class Stored:
    """A probe over arrays."""

    def __init__(self, arrays, name="stored", withhold=()):
        self.name = name
        self._arrays = arrays
        self._withhold = withhold

    @property
    def stages(self):
        return {name: array.shape for name, array in self._arrays.items()}

    def outputs(self, stages):
        return {name: self._arrays[name] for name in stages if name not in self._withhold}


def test_a_stage_that_is_not_shown_is_an_error_that_names_it():
    arrays = {"a": np.ones(2), "b": np.ones(3)}
    evaluate = evaluator(Stored(arrays), Stored(arrays, "half", ("b",)), ["a", "b"], TOLERANCE, Silent())
    with pytest.raises(ParityError, match="half was asked for 'b'"):
        evaluate(["a", "b"])


def test_only_equal_names_and_shapes_are_compared():
    reference = Stored({"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)})
    shown, left_out = comparable(reference, Stored({"a": np.ones(2), "b": np.ones(4)}, "other"))
    assert shown == ["a"]
    assert left_out == {"b": "[3] in stored, [4] in other", "c": "other does not show it"}


# --- a real bundle ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(small_bundle):
    return Bundle.open(small_bundle)


@pytest.fixture(scope="module")
def golden(bundle):
    first = bundle.manifest.golden[0]
    return ReferenceFrame(first.name, bundle.file(first.file))


@pytest.fixture(scope="module")
def graph(bundle):
    return bundle.artifact_file(bundle.manifest.artifacts[0])


@pytest.fixture(scope="module")
def torch(bundle, golden, graph, tmp_path_factory):
    """Every stage in PyTorch, computed once; and the stages."""
    scratch = tmp_path_factory.mktemp("torch")
    probe = TorchProbe(bundle.path, bundle.manifest.contract, "fp32", golden.path, scratch)
    candidate = OnnxProbe(graph, bundle.manifest.contract, "onnxruntime", "fp32", golden.path, scratch)
    shown, _ = comparable(probe, candidate)
    stages = stages_in_order(graph, shown, SECTIONS, OUTPUT)
    return Stored(probe.outputs([stage.name for stage in stages])), stages


@pytest.fixture
def search_in(torch, bundle, golden, tmp_path):
    """``search_in(graph, backend, strategy)`` against PyTorch."""

    def run(graph, backend, strategy):
        reference, stages = torch
        scratch = tmp_path / f"{backend}-{strategy.__name__}"
        scratch.mkdir()
        probe = OnnxProbe(graph, bundle.manifest.contract, backend, "fp32", golden.path, scratch)
        return strategy(stages, evaluator(reference, probe, [stage.name for stage in stages], TOLERANCE, Silent()))

    return run


def planted(graph, path, module, value):
    """The graph with one weight of ``module``'s matrix changed to ``value``."""
    model = onnx.load(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.name == f"{module}/MatMul")
    weight = next(weights[name] for name in node.input if name in weights)
    array = numpy_helper.to_array(weight).copy()
    array[0, 0] = value
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_good_bundle_is_inside_at_every_stage(bundle, golden, backend, tmp_path):
    report = bisect_bundle(bundle, (backend, "fp32"), ("torch", "fp32"), golden, Silent())
    assert report.passed and report.first is None and report.strategy == "scan"
    assert all(stage.measure.relative < TOLERANCE / 5 for stage in report.stages)
    names = [stage.name for stage in report.stages]
    for encoder in ("pretrained", "depth_pretrained"):
        blocks = [f"{encoder}.blocks.{block}" for block in range(12)]
        assert [name for name in names if name.startswith(f"{encoder}.")] == [f"{encoder}.patch_embed", *blocks]
    decoder = "depth_head_rgbd.scratch"
    assert [name for name in names if "refinenet" in name] == [f"{decoder}.refinenet{level}" for level in (4, 3, 2, 1)]
    assert names[-2:] == [f"{decoder}.output_conv1", OUTPUT]
    assert {f"depth_head_rgbd.projects.{level}" for level in range(4)} < set(names)
    assert report.stages[names.index("depth_pretrained.blocks.5")].after == ("depth_pretrained.blocks.4",)
    text, picture = write_report(report, tmp_path / "reports")
    assert type(report).model_validate_json(text.read_text()) == report
    assert picture.name == f"bisect-{backend}-fp32.png"


@pytest.mark.parametrize("strategy", [scan, bisect])
def test_a_planted_fault_is_named(search_in, graph, tmp_path, strategy):
    fault = planted(graph, tmp_path / "fault.onnx", "pretrained.blocks.4.mlp.fc1", 10.0)
    found = search_in(fault, "onnxruntime", strategy)
    assert (found.verdict, found.first, found.origins) == ("outside", "pretrained.blocks.4", ("pretrained.blocks.4",))
    assert found.runs == 2 if strategy is scan else found.runs <= 9


def test_a_planted_fault_is_named_through_openvino(search_in, graph, tmp_path):
    fault = planted(graph, tmp_path / "fault.onnx", "depth_pretrained.blocks.9.attn.proj", 10.0)
    found = search_in(fault, "openvino", scan)
    assert found.origins == ("depth_pretrained.blocks.9",)
    assert all(found.measured[f"pretrained.blocks.{block}"].inside for block in range(12))


def test_a_planted_nan_is_named(search_in, torch, graph, tmp_path):
    fault = planted(graph, tmp_path / "fault.onnx", "depth_pretrained.blocks.2.mlp.fc1", np.nan)
    found = search_in(fault, "onnxruntime", scan)
    assert found.origins == ("depth_pretrained.blocks.2",)
    assert found.measured[found.first].not_finite > 0
    halved = bisect(torch[1], lambda names: {name: found.measured[name] for name in names})
    assert halved.first == found.first


def test_what_cannot_be_searched(bundle, golden):
    def run(candidate, reference=("torch", "fp32"), **options):
        bisect_bundle(bundle, candidate, reference, golden, Silent(), **options)

    with pytest.raises(InputError, match="compared with itself"):
        run(("torch", "fp32"))
    with pytest.raises(InputError, match=r"unknown strategy 'bisct'\. Did you mean 'bisect'"):
        run(("onnxruntime", "fp32"), strategy="bisct")
    with pytest.raises(BackendUnavailable, match="holds nothing that backend 'onnxruntime' computes in int8"):
        run(("onnxruntime", "int8"))


def test_a_device_that_is_not_there_is_told_before_any_work(bundle, golden, monkeypatch):
    """Loading and running the reference for nothing took half a minute."""
    pytest.importorskip("tensorrt_rtx_bindings")

    def nothing() -> None:
        raise BackendUnavailable("no NVIDIA driver")

    monkeypatch.setattr("cdm_export.bisect.bundle_bisect.find_gpu", nothing)
    monkeypatch.setattr("cdm_export.bisect.bundle_bisect.evaluator", pytest.fail)
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
        bisect_bundle(bundle, ("tensorrt-rtx", "fp32"), ("torch", "fp32"), golden, Silent())
