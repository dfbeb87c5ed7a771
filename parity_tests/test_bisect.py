"""The first stage outside the tolerance is named: on synthetic networks, and on a real bundle with planted faults."""

import math
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cdm_export.bisect import bisect_bundle, write_report
from cdm_export.bisect.compare import comparable, looking
from cdm_export.bisect.measures import Measure, measure
from cdm_export.bisect.onnx_probe import OnnxProbe
from cdm_export.bisect.plot import OUTSIDE, SECTION_COLOURS, growth_picture
from cdm_export.bisect.report import make_report
from cdm_export.bisect.search import bisect, scan
from cdm_export.bisect.stages import Stage, stages_in_order
from cdm_export.bisect.torch_probe import TorchProbe
from cdm_export.gates import GATES
from cdm_export.golden import ReferenceFrame
from cdm_export.progress import Silent
from reference_model.registry import get_variant
from reference_model.sections import Section
from runtimes.bundle import Bundle
from runtimes.contract import TensorSpec
from runtimes.errors import BackendUnavailable, BundleError, InputError, ParityError

TOLERANCE = GATES["fp32"].p99
OUTPUT = "inverse_depth_refined"
SECTIONS = get_variant("cdm-vits").sections


# --- search, on synthetic networks ------------------------------------------------------------------------------------


@st.composite
def networks(draw):
    """Stages in order, each reading some before it; everything reaches the last."""
    count = draw(st.integers(1, 30))
    reads = [draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set() for index in range(count)]
    unread = set(range(count - 1)).difference(*reads)
    reads[-1] |= unread
    return [Stage(f"s{i}", "all", tuple(f"s{j}" for j in sorted(reads[i]))) for i in range(count)]


def chain(count):
    return [Stage(f"s{i}", "all", (f"s{i - 1}",) if i else ()) for i in range(count)]


def spreading(stages, origins):
    """Stages outside when the error begins at ``origins`` and never fades."""
    outside = set()
    for stage in stages:
        if stage.name in origins or not outside.isdisjoint(stage.after):
            outside.add(stage.name)
    return outside


def result(inside):
    relative = 1e-6 if inside else 1e-1
    return Measure(relative=relative, largest_difference=1, largest_reference=1, not_finite=0, inside=inside)


def looks_at(outside):
    return lambda names: {name: result(name not in outside) for name in names}


@given(st.data(), networks())
def test_both_name_the_only_origin(data, stages):
    origin = data.draw(st.sampled_from(stages)).name
    outside = spreading(stages, {origin})
    for search in (scan, bisect):
        found = search(stages, looks_at(outside))
        assert (found.verdict, found.first, found.origins) == ("outside", origin, (origin,))


@given(st.data(), networks())
def test_several_origins(data, stages):
    origins = data.draw(st.sets(st.sampled_from([stage.name for stage in stages]), min_size=1))
    outside = spreading(stages, origins)
    true = [stage.name for stage in stages if stage.name in outside and outside.isdisjoint(stage.after)]
    assert list(scan(stages, looks_at(outside)).origins) == true
    assert bisect(stages, looks_at(outside)).first in true


@given(st.data(), networks())
def test_an_error_that_fades_does_not_mislead(data, stages):
    """Whatever is outside: what is named is outside and all it reads is inside, measured."""
    outside = data.draw(st.sets(st.sampled_from([stage.name for stage in stages]))) | {stages[-1].name}
    for search in (scan, bisect):
        found = search(stages, looks_at(outside))
        after = next(stage.after for stage in stages if stage.name == found.first)
        assert not found.measured[found.first].inside
        assert all(found.measured[name].inside for name in after)


@given(networks())
def test_nothing_outside(stages):
    for search in (scan, bisect):
        found = search(stages, looks_at(set()))
        assert (found.verdict, found.first, found.origins) == ("inside", None, ())


@pytest.mark.parametrize("count", [1, 2, 50, 1000])
def test_bisect_halves_a_chain(count):
    for origin in {0, count // 3, count - 1}:
        stages = chain(count)
        found = bisect(stages, looks_at({f"s{i}" for i in range(origin, count)}))
        assert found.first == f"s{origin}"
        assert found.looks <= math.ceil(math.log2(count + 1)) + 2


def test_an_error_that_hides_when_it_is_looked_at_is_no_pass():
    stages = chain(8)

    def look(names):
        return {name: result(len(names) > 1 or name != "s7") for name in names}

    for search in (scan, bisect):
        found = search(stages, look)
        assert (found.verdict, found.first) == ("hidden", None)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_measure():
    reference = np.array([3.0, -4.0], np.float32)
    got = measure("x", reference, reference + np.float32(0.5), 0.2)
    assert got.relative == pytest.approx(math.hypot(0.5, 0.5) / 5)
    assert (got.largest_difference, got.largest_reference, got.not_finite, got.inside) == (0.5, 4.0, 0, True)
    assert not measure("x", reference, reference + np.float32(0.5), 0.1).inside


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_outside(value):
    got = measure("x", np.ones(3, np.float32), np.array([1, value, 1], np.float32), 1e9)
    assert (got.not_finite, got.relative, got.inside) == (1, None, False)


def test_a_reference_of_zeros():
    zeros = np.zeros(3, np.float32)
    assert measure("x", zeros, zeros, 1e-5).inside
    got = measure("x", zeros, zeros + np.float32(1e-9), 1e9)
    assert (got.relative, got.inside) == (None, False)


def test_large_values_do_not_overflow():
    large = np.full(4, 3e38, np.float32)
    assert measure("x", large, -large, 1).relative == pytest.approx(2)


def test_what_cannot_be_compared_is_an_error_that_names_the_stage():
    with pytest.raises(ParityError, match=r"'some\.block' is \[2\] in the candidate, \[3\] in the reference"):
        measure("some.block", np.ones(3), np.ones(2), 1)
    with pytest.raises(ParityError, match=r"'some\.block' holds NaN or Inf in the reference"):
        measure("some.block", np.array([np.nan]), np.ones(1), 1)


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
    look = looking(Stored(arrays), Stored(arrays, "half", ("b",)), ["a", "b"], TOLERANCE, Silent())
    with pytest.raises(ParityError, match="half was asked for 'b'"):
        look(["a", "b"])


def test_only_equal_names_and_shapes_are_compared():
    reference = Stored({"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)})
    shown, left_out = comparable(reference, Stored({"a": np.ones(2), "b": np.ones(4)}, "other"))
    assert shown == ["a"]
    assert left_out == {"b": "[3] in stored, [4] in other", "c": "other does not show it"}


# --- a graph of lower precision with its weights beside it ------------------------------------------------------------


@pytest.fixture
def half_graph(tmp_path, contract):
    """x -> half -> net.a -> net.b, net.c -> y: weights in a file beside the graph, boundary float32."""
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
    tiny = contract.model_copy(
        update={
            "inputs": (TensorSpec(name="x", shape=tuple(shape), unit=""),),
            "outputs": (TensorSpec(name="y", shape=tuple(shape), unit=""),),
        }
    )
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
    return bundle.artefact_file(bundle.manifest.artefacts[0])


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
        return strategy(stages, looking(reference, probe, [stage.name for stage in stages], TOLERANCE, Silent()))

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
    assert found.looks == 2 if strategy is scan else found.looks <= 9


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


# --- what people see --------------------------------------------------------------------------------------------------


def drawn(values, first=None, tolerance=1e-3):
    """A report of two sections, one value per stage."""
    stages = [
        Stage(f"net.s{i}", "encoder" if i < len(values) // 2 else "decoder", (f"net.s{i - 1}",) if i else ())
        for i in range(len(values))
    ]

    def measured(value):
        finite = math.isfinite(value)
        return Measure(
            relative=value if finite else None,
            largest_difference=value if finite else None,
            largest_reference=1,
            not_finite=0 if finite else 7,
            inside=value <= tolerance,
        )

    results = {stage.name: measured(value) for stage, value in zip(stages, values, strict=True)}
    found = scan(stages, lambda names: {name: results[name] for name in names})
    assert found.first == first
    return make_report(
        candidate="a fp16", reference="b fp32", frame="f", strategy="scan", tolerance=tolerance, stages=stages,
        found=found, left_out={},
    )  # fmt: skip


def coloured(picture, colour):
    return (picture == colour).all(axis=2)


def test_the_picture_shows_growth_tolerance_and_the_first_outside(tmp_path):
    report = drawn([1e-6, 1e-5, 1e-4, 1e-2, 1e-1, 1e-1], first="net.s3")
    picture = cv2.cvtColor(cv2.imread(str(write_report(report, tmp_path)[1])), cv2.COLOR_BGR2RGB)
    assert (picture == growth_picture(report)).all()
    encoder, decoder = (coloured(picture, colour) for colour in SECTION_COLOURS[:2])
    points = encoder | decoder
    # The curve rises: the error's tenfold steps put each section's marks to the right of and above the ones before.
    columns, heights = [], []
    for mask in (encoder, decoder):
        rows, across = np.nonzero(mask[150:560])
        columns.append(across.mean())
        heights.append(rows.mean())
    assert columns[0] < columns[1] and heights[0] > heights[1]
    assert points.sum() > 500
    # The dashed line of the tolerance crosses the plot on a row of its own.
    red = coloured(picture, OUTSIDE)
    dashes = red[:, 200:].sum(axis=1)
    row = int(dashes.argmax())
    assert dashes[row] > 300
    # The first stage outside has a line from its mark to the axis; with nothing outside there is none.
    assert red[row:].sum(axis=0).max() > 150
    good = growth_picture(drawn([1e-6, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5]))
    assert coloured(good, OUTSIDE)[150:560].sum(axis=0).max() < 20


def test_nan_and_zero_can_be_drawn():
    growth_picture(drawn([0.0, 0.0, math.nan, math.nan], first="net.s2"))
    growth_picture(drawn([0.0]))


def test_the_table_and_the_sentence(capsys):
    from rich.console import Console

    report = drawn([1e-6, math.nan, math.nan, math.nan], first="net.s1")
    Console(width=160).print(report.table())
    text = capsys.readouterr().out
    assert "<- first outside" in next(line for line in text.splitlines() if "net.s1" in line)
    assert "encoder" in text and "decoder" in text
    assert "'net.s1' (encoder) is the first to leave the tolerance of 0.001: 7 NaN or Inf" in report.summary
    assert not report.passed


def test_importing_it_loads_nothing_heavy():
    code = "import sys, cdm_export.bisect; print(*[n for n in ('torch', 'onnx', 'onnxruntime') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
