"""``build``, for real: TensorRT-RTX builds without a GPU. What needs one is in ``test_tensorrt_gpu.py``."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cdm_export.runtimes import engines
from cdm_export.runtimes.backends import get_backend
from cdm_export.runtimes.bundle import State
from cdm_export.runtimes.errors import BackendUnavailable, BuildCanceled
from cdm_export.runtimes.selection import choose
from cdm_export.runtimes.tensorrt_api import Log
from cdm_export.tensorrt.places import LOCK
from parity_tests.conftest import cli
from parity_tests.engine_bundle import TYPING, bundle_of, make_bundle, write_graph
from parity_tests.engine_bundle import contract as model_contract

trt = pytest.importorskip("tensorrt_rtx_bindings")

RTX = get_backend("tensorrt-rtx")


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "tiny.bundle")


def build(bundle, *options, expect=0, **environment):
    done = cli("build", bundle.path, "--target", "tensorrt-rtx", "--json", *options, environment=environment)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout)


def plan(graph, **changed):
    from cdm_export.tensorrt.builder import BuildPlan

    settings = {
        "precision": "fp16",
        "precision_plan": TYPING,
        "workspace": 0,
        "optimization_level": 3,
        "timing_cache": None,
    }
    return BuildPlan(graph=graph, **{**settings, **changed})


def claims(record):
    return {claim["claim"]: (claim["outcome"], claim["detail"]) for claim in record["evidence"]["claims"]}


def partial_folders(bundle):
    return [path for root in engines.roots(bundle) for path in root.glob(".*") if path.name != LOCK]


def test_engine_with_its_record_and_nothing_else(bundle):
    report = build(bundle)
    record = report["record"]
    assert [attempt["outcome"] for attempt in report["attempts"]] == ["candidate"]
    assert record["state"] == "candidate" and record["self_test"] is None
    assert record["machine"]["gpu"] is None and record["settings"]["typing"] == "strong"
    assert claims(record) == {
        "every matrix product and convolution outside the float32 islands reads Half": (
            "passed", "2 products, 1 of them in islands"),
        "no float32 product is rounded to TF32": (
            "passed", "the builder's flag is off, read back; no tactic is named after it"),
        "every attention is one fused kernel": ("passed", "1 of 1"),
    }  # fmt: skip
    files = sorted(path.name for path in (bundle.path / "engines").rglob("*") if path.is_file())
    assert files == [LOCK, engines.RECORD, engines.PLAN]
    inspected = json.loads(cli("inspect", bundle.path, "--full", "--json").stdout)
    assert inspected["engines"][0]["evidence"]["fused_attention"] == 1
    shown = cli("inspect", bundle.path).stdout
    assert "passed: every attention is one fused kernel (1 of 1)" in shown and "self-test: not run" in shown


def test_built_once(bundle):
    first = build(bundle)
    written = Path(first["engine"]).stat().st_mtime_ns
    again = build(bundle)
    assert again["attempts"][0]["outcome"] == "there already"
    assert Path(again["engine"]).stat().st_mtime_ns == written
    assert build(bundle, "--force")["attempts"][0]["outcome"] == "candidate"
    assert Path(first["engine"]).stat().st_mtime_ns > written


def test_engine_that_was_never_tested_is_not_chosen_but_named(bundle):
    build(bundle)
    assert engines.find(bundle, RTX, "fp16") is not None
    with pytest.raises(BackendUnavailable, match=r"not tested on this device yet\nTest it: cdm-export verify"):
        choose(bundle, "tensorrt-rtx")
    with pytest.raises(BackendUnavailable, match=r"tf32 is computed by engines only.*\nBuild one: cdm-export build"):
        choose(bundle, precision="tf32")
    with pytest.raises(BackendUnavailable, match=r"no usable fp32 engine.*none was built\nBuild one: .*fp32"):
        choose(bundle, "tensorrt-rtx", "fp32")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16-attn32"])
def test_other_precisions(bundle, precision):
    record = build(bundle, "--precision", precision)["record"]
    assert record["precision"] == precision and record["settings"]["tf32"] == (precision == "tf32")
    assert {outcome for outcome, _ in claims(record).values()} == {"passed"}
    assert record["source"]["artefact"] == {"tf32": "onnx/fp32"}.get(precision, f"onnx/{precision}")
    assert record["evidence"]["fused_attention"] == 0


def test_wrong_type_fails_the_build_and_is_kept_aside(tmp_path):
    wrong = make_bundle(tmp_path / "wrong.bundle", low="FLOAT")  # an fp16.onnx that is float32 inside
    failed = build(wrong, "--precision", "fp16", expect=1)
    assert "not so: every matrix product and convolution outside the float32 islands reads Half" in failed["error"]
    assert "blocks.0.attn.core (Float)" in failed["error"]
    aside = [engine.path.parent.name for engine in engines.scan(wrong)]
    assert aside == ["fp16-failed"] and engines.find(wrong, RTX, "fp16") is None
    with pytest.raises(BackendUnavailable, match="it failed"):
        choose(wrong, "tensorrt-rtx", "fp16")
    assert partial_folders(wrong) == []


def test_auto_goes_on_to_the_fallback(tmp_path):
    wrong = make_bundle(tmp_path / "wrong.bundle", low="FLOAT")
    report = build(wrong)
    assert [attempt["attempt"] for attempt in report["attempts"]] == ["fp16", "fp16-attn32"]
    assert [attempt["outcome"] for attempt in report["attempts"]] == ["failed", "candidate"]
    assert report["record"]["precision"] == "fp16-attn32"
    again = build(wrong)
    assert [attempt["outcome"] for attempt in again["attempts"]] == ["there already"]
    assert again["record"]["precision"] == "fp16-attn32"


def test_auto_is_not_content_with_a_float32_engine_that_is_there(bundle):
    assert build(bundle, "--precision", "fp32")["record"]["precision"] == "fp32"
    assert build(bundle)["record"]["precision"] == "fp16"


def test_graph_that_failed_its_gate_is_never_built(tmp_path):
    failed = {"fp16": State.FAILED, "fp16-attn32": State.FAILED}
    marked = make_bundle(tmp_path / "failed.bundle", states=failed)
    refused = build(marked, "--precision", "fp16", expect=1)
    assert "onnx/fp16 failed its gate where it was made" in refused["error"]
    report = build(marked)
    assert [attempt["outcome"] for attempt in report["attempts"]] == ["skipped", "skipped", "skipped", "candidate"]
    assert report["record"]["precision"] == "fp32"
    assert not list((marked.path / "engines").glob("*/fp16*"))


def test_graph_that_cannot_be_read_names_its_node(tmp_path):
    odd = make_bundle(tmp_path / "odd.bundle", operator="NoSuchOperator")
    said = build(odd, "--precision", "fp16", expect=1)
    assert "blocks.0.attn.core/NoSuchOperator (NoSuchOperator)" in said["error"]
    assert not list((odd.path / "engines").rglob("*.plan")) and partial_folders(odd) == []


def test_every_step_can_cancel(tmp_path):
    from cdm_export.tensorrt.builder import build_engine

    graph = tmp_path / "fp16.onnx"
    write_graph(graph)
    phases: list[str] = []

    def stop(name: str, steps: int) -> bool:
        phases.append(name)
        return len(phases) < 3

    with pytest.raises(BuildCanceled, match="nothing was kept"):
        build_engine(trt, plan(graph), Log(), on_phase=stop)
    assert 3 <= len(phases) < 10
    with pytest.raises(BuildCanceled):
        build_engine(trt, plan(graph), Log(), on_step=lambda: False)


def test_broken_fusion_is_shown_to_be_broken(tmp_path):
    from cdm_export.tensorrt.builder import build_engine
    from cdm_export.tensorrt.checks import gather
    from cdm_export.tensorrt.layers import parse_layers

    graph = tmp_path / "fp16.onnx"
    write_graph(graph)
    fused = {}
    for broken in (False, True):
        table: list[tuple[str, str]] = []
        log = Log(lambda *message, table=table: table.append(message))
        built = build_engine(trt, plan(graph, break_fusion=broken), log)
        assert built.extra_outputs == (("blocks.0.attn.core/Softmax_output",) if broken else ())
        assert [(one.node, one.bytes) for one in built.attentions] == [("blocks.0.attn.core/Softmax", 2 * 2 * 64 * 64)]
        found = gather(
            parse_layers("\n".join(text for _, text in table)), "engine inspector", "fp16", TYPING, built.attentions,
            tf32=built.tf32, fusion_broken=broken,
        )  # fmt: skip
        assert not found.broken and not found.costly
        fused[broken] = found.fused_attention
    assert fused == {False: 1, True: 0}


def test_builder_that_dies_is_a_report(bundle, tmp_path):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "tensorrt_rtx_bindings.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    said = build(bundle, "--precision", "fp16", expect=1, PYTHONPATH=str(folder))
    assert "was killed by SIGSEGV" in said["error"] and "building fp16.onnx" in said["error"]
    assert partial_folders(bundle) == [] and engines.scan(bundle) == []


def test_two_builds_at_once_make_one_engine(bundle):
    command = [sys.executable, "-m", "cdm_export", "build", str(bundle.path), "--target", "tensorrt-rtx", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = []
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        outcomes.append(json.loads(out)["attempts"][0]["outcome"])
    assert sorted(outcomes) == ["candidate", "there already"]
    assert len(engines.scan(bundle)) == 1


def test_bundle_that_cannot_be_written(bundle):
    (bundle.path / "engines").touch()  # a file where the folder would be: even root cannot write there
    report = build(bundle)
    assert bundle.identity in report["engine"] and str(bundle.path) not in report["engine"]
    assert engines.find(bundle, RTX, "fp16") is not None


def test_engine_of_another_graph_is_not_found(bundle, tmp_path):
    build(bundle)
    other = make_bundle(tmp_path / "other.bundle", operator="LogSoftmax")
    shutil.copytree(bundle.path / "engines", other.path / "engines")
    assert engines.find(other, RTX, "fp16") is None
    with pytest.raises(BackendUnavailable, match="another artifact"):
        choose(other, "tensorrt-rtx", "fp16")


def test_without_the_library_or_the_driver(bundle, tmp_path):
    absent = cli("build", bundle.path, "--target", "tensorrt")
    assert absent.returncode == 3 and "python3-libnvinfer" in absent.stderr
    marker, folder = tmp_path / "touched", tmp_path / "modules"
    folder.mkdir()
    (folder / "tensorrt.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    environment = {"PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    blind = cli("build", bundle.path, "--target", "tensorrt", environment=environment)
    assert blind.returncode == 3 and "NVIDIA driver" in blind.stderr
    assert not marker.exists(), "TensorRT was touched although there is no driver"
    assert not (bundle.path / "engines").exists()


def test_bad_usage(bundle):
    assert "no bf16 graph; it has fp16, fp16-attn32, fp32" in build(bundle, "--precision", "bf16", expect=2)["error"]
    assert "Did you mean 'fp16'" in build(bundle, "--precision", "fp17", expect=2)["error"]


@pytest.fixture(scope="module")
def vits_graph(tmp_path_factory):
    """cdm-vits at 98x70, rewritten, in plain half; exported in a process of its own."""
    path = tmp_path_factory.mktemp("vits") / "half.onnx"
    command = [sys.executable, "-m", "benchmarks.rtx_layers", "half", "cdm-vits", str(path), "160x120", "70"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def vits(vits_graph, contract, tmp_path):
    return bundle_of(tmp_path / "vits.bundle", vits_graph, contract)


@pytest.fixture
def slow_build(vits):
    """A build that was just begun: process, its child, bundle."""
    command = [sys.executable, "-m", "cdm_export", "build", str(vits.path), "--target", "tensorrt-rtx"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "building engine" in line:
            break
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    yield process, children[0], vits
    process.kill()


def test_interrupted_build_leaves_nothing(slow_build):
    process, child, bundle = slow_build
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert partial_folders(bundle) == [] and engines.scan(bundle) == []
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


def test_builder_stops_when_its_parent_is_gone(slow_build):
    process, child, bundle = slow_build
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert time.monotonic() < deadline
    assert engines.scan(bundle) == []  # what lies there begins with a dot; the next build clears it


def test_vits(vits):
    record = build(vits)["record"]
    assert claims(record)["every attention is one fused kernel"] == ("passed", "24 of 24")
    assert {outcome for outcome, _ in claims(record).values()} == {"passed"}
    assert record["evidence"]["float32_products"] == []


def test_bf16(tmp_path):
    from cdm_export.tensorrt.builder import build_engine
    from cdm_export.tensorrt.checks import gather
    from cdm_export.tensorrt.layers import parse_layers

    graph = tmp_path / "bf16.onnx"
    write_graph(graph, "BFLOAT16")
    table: list[str] = []
    built = build_engine(trt, plan(graph, precision="bf16"), Log(lambda severity, text: table.append(text)))
    found = gather(
        parse_layers("\n".join(table)), "engine inspector", "bf16", TYPING, built.attentions,
        tf32=built.tf32, fusion_broken=False,
    )  # fmt: skip
    assert [check.outcome for check in found.checks] == ["passed"] * 3


def test_engine_that_shows_stages(tmp_path):
    """What the bisect builds: stages become outputs, whatever else is found. Running it takes a GPU."""
    import onnx

    from cdm_export.bisect.onnx_probe import write_exposing
    from cdm_export.bisect.probe import exposing
    from cdm_export.tensorrt.debug_engine import engine_exposing

    plain, shown = tmp_path / "plain.onnx", tmp_path / "shown.onnx"
    write_graph(plain)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(plain)), plain)
    stages = exposing(model_contract(), ["mixed", "color"], {"mixed": (1, 2, 64, 32), "color": (1, 1, 64, 64)})
    write_exposing(plain, stages, shown)
    record = engines.read_record(engine_exposing(shown, stages, "tensorrt-rtx", "fp16", tmp_path).parent)
    assert [spec.name for spec in record.contract.outputs] == ["inverse_depth_refined", "mixed", "color"]
    assert record.state is State.CANDIDATE and record.layer_report.kernels >= 5


def test_version_in_metadata_may_have_other_parts(bundle, monkeypatch):
    import dataclasses

    built = build(bundle)["record"]["machine"]["version"]
    shorter = built.rpartition(".")[0]
    for version, fits in ((shorter, True), (f"{built}.1", True), (None, True), (f"{shorter}9", False), ("0.1", False)):
        monkeypatch.setattr(type(RTX), "version", version)
        assert (engines.find(bundle, dataclasses.replace(RTX), "fp16") is not None) == fits, version
