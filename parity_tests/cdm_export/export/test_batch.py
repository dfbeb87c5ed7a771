"""Several frames at once: each element is its own frame's result, and whatever takes one frame goes on taking one."""

import json
import shutil

import numpy as np
import onnx
import pytest

import cdm_export
from cdm_export.bench import BenchRequest, bench_bundle
from cdm_export.bench.markdown import to_markdown
from cdm_export.parity.check_backend import check_backend
from cdm_export.parity.golden import ReferenceFrame, load_reference, raw_frame
from cdm_export.progress import Silent
from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Bundle, State
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.local_results import LocalSpeed, Ratio
from cdm_export.runtimes.selection import choose, executions
from cdm_export.runtimes.sources import MirroredSource, open_source
from parity_tests.conftest import cli

BATCH = 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped model with graphs for three frames, made from one frame; and what the export said."""
    out = tmp_path_factory.mktemp("batch") / "batch.bundle"
    done = cli(
        "export", "--model", "cdm-vitt", "--camera", "160x120", "--input-size", 126, "--frames", "sample", "--fit",
        "--precision", "fp32,fp16", "--batch", BATCH, "-o", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy without anything learned."""
    copy = tmp_path / "batch.bundle"
    shutil.copytree(exported[0], copy, ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(copy)


@pytest.fixture
def frames(bundle):
    return [raw_frame(load_reference(bundle.file(golden.file))) for golden in bundle.manifest.golden]


def test_both_graphs_are_published_and_share_their_weights(exported):
    bundle, done = Bundle.open(exported[0], full=True), exported[1]
    by_name = {artifact.name: artifact for artifact in bundle.manifest.artifacts}
    assert list(by_name) == ["onnx/fp32", "onnx/fp16", "onnx/fp16-attn32", "onnx/fp32-b3", "onnx/fp16-b3"]
    for precision in ("fp32", "fp16"):
        artifact = by_name[f"onnx/{precision}-b3"]
        assert artifact.batch == BATCH and artifact.main == f"onnx/{precision}-b3.onnx"
        assert artifact.state is State.PUBLISHED and {verdict.frames for verdict in artifact.verdicts} == {BATCH}
        graph, weights = artifact.files
        assert weights.path == f"onnx/{precision}.onnx.data" and graph.size < weights.size / 4
    assert "3 mirror" not in done.stderr and "and 2 mirror image(s)" in done.stderr
    assert [golden.name for golden in bundle.manifest.golden][1:] == ["motorcycle-mirrored", "motorcycle-upside-down"]
    assert "onnxruntime fp16-b3: passed" in done.stdout


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_element_is_its_own_frame(bundle, frames, backend):
    """And what lies beside it does not matter."""
    with cdm_export.open(bundle.path, backend, "fp32") as one, cdm_export.open(
        bundle.path, backend, "fp32", batch=BATCH
    ) as three:  # fmt: skip
        alone = [one(frame).values for frame in frames]
        for order in ([0, 1, 2], [2, 0, 1]):
            together = three.many([frames[index] for index in order])
            for index, result in zip(order, together, strict=True):
                np.testing.assert_allclose(result.values, alone[index], rtol=2e-4)
        assert not np.allclose(alone[0], alone[1], rtol=0.01)
        np.testing.assert_allclose(three(frames[0]).values, alone[0], rtol=2e-4)  # a part of a batch is filled up
        with pytest.raises(InputError, match=r"takes up to 3 frame\(s\) at once, got 4"):
            three.many([*frames, frames[0]])


def test_elements_in_the_wrong_order_fail(bundle, tmp_path):
    artifact = next(one for one in bundle.manifest.artifacts if one.label == "fp32-b3")
    model = onnx.load(bundle.artifact_file(artifact))
    last = model.graph.output[0].name
    producer = next(node for node in model.graph.node if last in node.output)
    producer.output[list(producer.output).index(last)] = "ordered"
    order = onnx.numpy_helper.from_array(np.array([1, 0, 2], np.int64), "order")
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["ordered", "order"], [last], axis=0))
    onnx.save(model, tmp_path / "wrong.onnx")
    golden = [ReferenceFrame(item.name, bundle.file(item.file)) for item in bundle.manifest.golden]
    contract = bundle.manifest.contract.batched(BATCH)
    parity = check_backend("onnxruntime", tmp_path / "wrong.onnx", contract, "fp32", golden, "golden", Silent())
    assert [frame.verdict for frame in parity.frames] == ["failed", "failed", "passed"]


def test_verify_learns_it_apart_and_auto_keeps_to_one_frame(bundle):
    done = cli("verify", bundle.path, "--backend", "onnxruntime", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and {(one["precision"], one["batch"]) for one in report["parity"]} == {
        ("fp32", 1), ("fp16", 1), ("fp16-attn32", 1), ("fp32", 3), ("fp16", 3)
    }  # fmt: skip
    learned = local_results.load(bundle, BATCH)["onnxruntime", "fp16"]
    assert learned.batch == BATCH and learned.label == "fp16-b3"
    local_results.save(bundle, learned.model_copy(update={"p50_ms": 1e-6}))
    assert choose(bundle).batch == 1 and choose(bundle, "onnxruntime", "fp16").batch == 1
    assert choose(bundle, batch=BATCH).precision == "fp32", "a figure of another time is no reason to leave FP32"
    paths = [local_results.path_here(bundle, BACKENDS[name], "fp32", BATCH) for name in ("openvino", "onnxruntime")]
    ratios = tuple(Ratio(baseline=path, ratio=0.5, interval=(0.4, 0.6), rounds=9) for path in paths)
    half = local_results.path_here(bundle, BACKENDS["onnxruntime"], "fp16", BATCH)
    local_results.save_speed(bundle, LocalSpeed(**dict(half), ratios=ratios))
    assert choose(bundle, batch=BATCH).name == "onnxruntime fp16-b3" and choose(bundle).batch == 1
    assert "onnxruntime fp16-b3: passed" in cli("inspect", bundle.path).stdout
    assert not executions(bundle, BACKENDS["tensorrt"], BATCH)


def test_bench_counts_frames(bundle):
    result = bench_bundle(BenchRequest(bundle.path, "onnxruntime", "fp32", frames=3), Silent())
    one, three = result.entries
    assert (one.name, three.name, result.baseline) == ("onnxruntime fp32", "onnxruntime fp32-b3", one.name)
    assert three.frames_per_second == pytest.approx(BATCH * 1e3 / three.mean[0])
    assert three.ratio[0] == pytest.approx(
        np.median([ms / BATCH / base for ms, base in zip(three.samples_ms, one.samples_ms, strict=True)]), rel=1e-3
    )
    assert "latency of onnxruntime fp32-b3 is that of the whole batch" in to_markdown(result)


def test_too_few_frames_are_refused_and_say_how_many(tmp_path):
    done = cli(
        "export", "--model", "cdm-vitt", "--camera", "160x120", "--frames", "sample", "--batch", 5,
        "-o", tmp_path / "x.bundle",
    )  # fmt: skip
    assert done.returncode == 2 and "'sample' gives 1 (4 with mirror images)" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_batch_nobody_exported_is_refused(bundle):
    with pytest.raises(InputError, match=r"takes 1, 3 frame\(s\) at once, not 2"):
        cdm_export.open(bundle.path, batch=2)


def test_mirror_images_keep_every_reading():
    source = open_source("synthetic:2", camera=Size(64, 48))
    filled = MirroredSource(source, 5)
    assert len(filled) == 5 and len(set(filled.names)) == 5 and len(MirroredSource(source, 1)) == 2
    assert len(MirroredSource(source, 99)) == 8
    original, mirrored, turned = source.load(0), filled.load(2), MirroredSource(source, 8).load(6)
    np.testing.assert_array_equal(mirrored.frame.rgb, original.frame.rgb[:, ::-1])
    np.testing.assert_array_equal(mirrored.raw_depth, original.raw_depth[:, ::-1])
    np.testing.assert_array_equal(turned.frame.depth, original.frame.depth[::-1, ::-1])
