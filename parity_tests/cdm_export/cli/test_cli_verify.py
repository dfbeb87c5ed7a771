"""``verify`` as a user meets it: what it remembers, and what it does not let pass."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cdm_export.bench import BenchRequest, bench_bundle
from cdm_export.bench import bench as bench_module
from cdm_export.parity import verify as verify_module
from cdm_export.progress import Silent
from cdm_export.runtimes import backends
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.errors import BackendUnavailable
from parity_tests.conftest import cli, refused
from parity_tests.engine_bundle import self_test
from parity_tests.tiny_bundle import make_tiny


@pytest.fixture
def copy(small_bundle, tmp_path):
    target = tmp_path / "copy.bundle"
    shutil.copytree(small_bundle, target, ignore=shutil.ignore_patterns("engines"))
    return target


def test_verify_remembers_and_auto_listens(copy, pair, tmp_path):
    done = cli("verify", copy, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["passed"]
    ran = {(parity["backend"], parity["precision"]): parity for parity in document["parity"]}
    skipped = {tuple(name.split()) for name in document["skipped"]}
    assert {("openvino", "fp32"), ("onnxruntime", "fp32")} <= set(ran)
    # A CPU without BF16 skips that one; nothing else is left out.
    assert set(ran) | skipped == {
        ("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime-cuda", "fp32"),
        ("onnxruntime-tensorrt", "fp32"),
    }  # fmt: skip
    assert "CUDA" in document["skipped"]["onnxruntime-cuda fp32"]
    # One was measured after the other: whatever came out, that is no reason to leave FP32.
    run = cli("run", copy, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "x.npy")
    assert re.match(r"(openvino|onnxruntime) fp32, parity passed", run.stdout) and "on this machine" in run.stdout
    assert "on this machine" in " ".join(cli("inspect", copy).stdout.split())


def test_verify_on_other_frames_says_what_it_compares_with(copy):
    done = cli("verify", copy, "--frames", "synthetic:1:7", "--backend", "openvino", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["reference"] == "eager float32 PyTorch"  # seeded weights are at hand


def test_verify_of_the_reference_itself(copy):
    """PyTorch now against PyTorch then; against itself just now it would always pass."""
    done = cli("verify", copy, "--backend", "torch", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["parity"][0]["verdict"]["max"] <= 1e-3
    refused(cli("verify", copy, "--backend", "torch", "--frames", "synthetic:1", "-q"), 3, "compared with itself")


def forget_the_seed(bundle: Path) -> None:
    """As if the bundle came from a checkpoint that is not at hand: no PyTorch reference can be made."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["provenance"].update(random_weights=None, checkpoint="camera.ckpt")
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_verify_without_pytorch_weights_says_so_and_remembers_nothing(copy):
    """ONNX Runtime is then the reference: it is not compared with itself, and nothing counts as verified."""
    forget_the_seed(copy)
    done = cli("verify", copy, "--frames", "synthetic:1:5", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and "itself against PyTorch on the golden frames: passed" in document["reference"]
    assert [parity["backend"] for parity in document["parity"] if parity["precision"] == "fp32"] == ["openvino"]
    assert "compared with itself" in document["skipped"]["onnxruntime fp32"]
    assert not (copy / "engines").exists()


def test_wrong_graph_is_no_reference(copy):
    """Hashes made to fit: other frames must not be judged by a graph that fails the golden ones."""
    import onnx
    from onnx import numpy_helper

    from cdm_export.runtimes.hashing import sha256_of

    forget_the_seed(copy)
    path = copy / "onnx" / "fp32.onnx"
    model = onnx.load(path)
    name = "network.depth_head_rgbd.scratch.output_conv2.2.bias"
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.05), name))
    onnx.save(model, path)
    manifest = json.loads((copy / "manifest.json").read_text())
    record = manifest["artefacts"][0]["files"][0]
    record.update(size=path.stat().st_size, sha256=sha256_of(path))
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = cli("verify", copy, "--frames", "synthetic:1:5", "-q")
    refused(done, 1, "ONNX Runtime cannot be the reference here")


def test_backend_that_dies_has_failed(copy, tmp_path):
    """A crash is no absence: exit code 1, and auto does not pick it."""
    site = tmp_path / "site" / "openvino"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    done = cli("verify", copy, "--json", environment={"PYTHONPATH": str(site.parent)})
    document = json.loads(done.stdout)
    assert done.returncode == 1 and not document["passed"]
    assert "SIGSEGV" in document["crashed"]["openvino fp32"]
    assert [parity["backend"] for parity in document["parity"]] == ["onnxruntime"]
    run = cli("run", copy, "--input", "synthetic:1", "-o", tmp_path / "x.npy")
    assert run.stdout.startswith("onnxruntime fp32")


def test_no_code_runs_from_the_folder_one_stands_in(copy, tmp_path):
    """Not even when it is the bundle, and a file in it is called like a library."""
    marker = tmp_path / "executed"
    for name in ("onnxruntime", "openvino", "json", "runtimes"):
        (copy / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\nraise SystemExit('executed')\n")
    command = Path(sys.executable).with_name("cdm-export")
    done = subprocess.run(
        [command, "verify", ".", "--backend", "onnxruntime", "-q"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not marker.exists()


def test_verify_of_changed_artifact(copy):
    graph = copy / "onnx" / "fp32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    refused(cli("verify", copy, "-q"), 2, "was changed since it was published", "Copy the bundle again")


def test_verify_fails_when_the_golden_frames_disagree(copy):
    """Hashes made to fit: the figures still give it away."""
    from cdm_export.runtimes.hashing import sha256_of

    manifest = json.loads((copy / "manifest.json").read_text())
    record = manifest["golden"][0]["file"]
    with np.load(copy / record["path"]) as arrays:
        changed = dict(arrays)
    changed["raw_output"] = changed["raw_output"] * np.float32(1.01)
    np.savez(copy / record["path"], **changed)
    record["size"] = (copy / record["path"]).stat().st_size
    record["sha256"] = sha256_of(copy / record["path"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = cli("verify", copy)
    assert done.returncode == 1 and "failed" in done.stdout and "mean relative depth error" in done.stdout
    run = cli("run", copy, "--input", "synthetic:1", "-o", copy.parent / "x.npy", "-q")
    refused(run, 1, "failed its parity gate", "cdm-export verify")


def test_verify_with_another_checkpoint(copy, tmp_path):
    (tmp_path / "other.pt").write_bytes(b"other")
    done = cli("verify", copy, "--checkpoint", tmp_path / "other.pt", "-q")
    refused(done, 2, "is not the checkpoint this bundle was made from")


def test_no_process_is_started_for_what_cannot_run_here(tmp_path, monkeypatch):
    started = []

    def check(backend, path, contract, precision, *rest, **options):
        started.append(backend)
        return self_test(backend, precision, "passed")

    monkeypatch.setattr(verify_module, "check_backend", check)
    monkeypatch.setattr(backends, "_has_provider", lambda backend: False)
    absent = dataclasses.replace(BACKENDS["openvino"], library="no_such_library")
    monkeypatch.setitem(BACKENDS, "openvino", absent)
    bundle = make_tiny(tmp_path / "tiny.bundle", 2)
    verification = verify_module.verify_bundle(verify_module.VerifyRequest(bundle), Silent())
    assert started == ["onnxruntime"] and verification.passed
    assert "not installed here" in verification.skipped["openvino fp32"]
    assert "has no CUDAExecutionProvider" in verification.skipped["onnxruntime-cuda fp32"]
    assert "has no TensorrtExecutionProvider" in verification.skipped["onnxruntime-tensorrt fp32"]
    choices, skipped = bench_module._choices(Bundle.open(bundle), BenchRequest(bundle))
    assert [choice.name for choice in choices] == ["onnxruntime fp32"]
    assert "has no CUDAExecutionProvider" in skipped["onnxruntime-cuda fp32"]
    for name in ("onnxruntime-cuda", "openvino"):
        with pytest.raises(BackendUnavailable, match="Add it with"):
            verify_module.verify_bundle(verify_module.VerifyRequest(bundle, name), Silent())
        with pytest.raises(BackendUnavailable, match="Add it with"):
            bench_bundle(BenchRequest(bundle, name), Silent())
    assert started == ["onnxruntime"]


def test_whether_a_provider_is_there_is_what_the_library_says():
    """Told from the files of the build, without importing it."""
    from cdm_export.runtimes.onnxruntime import PROVIDERS
    from cdm_export.runtimes.telemetry import import_onnxruntime

    available = import_onnxruntime().get_available_providers()
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        assert backends._has_provider(BACKENDS[name]) == (PROVIDERS[name] in available)
        assert backends._PROVIDER_LIBRARIES[name][0] == PROVIDERS[name]
