"""What only a GPU can show. Run there with ``python -m pytest -m gpu``; nothing of it ran where it was written.

Needs an NVIDIA GPU with TensorRT or TensorRT-RTX, whichever is installed, and the export dependencies for the bundle;
on a Jetson copy a bundle there and name it in CDM_EXPORT_TEST_BUNDLE.
"""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import cdm_export
from cdm_export.runtimes import engines, tensorrt
from cdm_export.runtimes.backends import BACKENDS, get_backend
from cdm_export.runtimes.bundle import Bundle, State
from cdm_export.runtimes.errors import BundleError
from cdm_export.runtimes.measure import measure
from cdm_export.runtimes.nvidia import free_memory, gpu_or_none
from cdm_export.runtimes.runtime import CheckedRuntime
from parity_tests.conftest import cli

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu_or_none() is None, reason="no NVIDIA GPU here"),
]
TARGETS = [backend.name for backend in BACKENDS.values() if backend.engine and backend.installed]


@pytest.fixture(scope="module", params=TARGETS or ["none"])
def target(request):
    if request.param == "none":
        pytest.skip("neither TensorRT nor TensorRT-RTX is installed")
    return request.param


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, request):
    given = os.environ.get("CDM_EXPORT_TEST_BUNDLE")
    source = Path(given) if given else request.getfixturevalue("half_bundle")
    copy = tmp_path_factory.mktemp("gpu") / "copy.bundle"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(copy)


@pytest.fixture(scope="module")
def half_bundle(tmp_path_factory):
    out = tmp_path_factory.mktemp("half") / "half.bundle"
    done = cli(
        "export", "--model", "cdm-vitt", "--camera", "640x480", "--input-size", 266, "--frames", "sample", "--fit",
        "-o", out, "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def built(bundle, target):
    """Every precision that has a graph, each gated by its self-test."""
    records = {}
    for precision in ("fp32", "tf32", "fp16", "fp16-attn32"):
        done = cli(
            "build", bundle.path, "--target", target, "--precision", precision, "--workaround", "none", "--json",
            timeout=3600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        records[precision] = json.loads(done.stdout)
    return records


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "fp16-attn32"])
def test_parity(built, precision):
    report = built[precision]
    assert report["record"]["state"] == "published"
    assert report["parity"]["verdict"]["verdict"] == "passed"
    disproven = [one for one in report["record"]["evidence"]["claims"] if one["outcome"] == "failed" and one["fatal"]]
    assert not disproven
    print(precision, report["parity"]["verdict"], report["record"]["evidence"]["by_kind"])


def inputs_of(bundle, index=0):
    golden = bundle.manifest.golden[index]
    with np.load(bundle.file(golden.file), allow_pickle=False) as arrays:
        return {spec.name: arrays[spec.name] for spec in bundle.manifest.contract.inputs}


def load(bundle, target, precision="fp16"):
    found = engines.find(bundle, get_backend(target), precision)
    assert found is not None and found.record.state is State.PUBLISHED
    contract = bundle.manifest.contract
    return CheckedRuntime(tensorrt.load(found.path, contract, get_backend(target), precision, 0), contract)


def test_graph_is_the_eager_result(bundle, built, target):
    runtime = load(bundle, target)
    frame = inputs_of(bundle)
    eager = next(iter(runtime(frame).values()))
    assert runtime.describe().executed["cuda_graph"] == "on, equal to the eager result"
    for _ in range(5):
        assert np.array_equal(next(iter(runtime(frame).values())), eager)
    other = {name: np.ascontiguousarray(array[..., ::-1]) for name, array in frame.items()}
    assert not np.array_equal(next(iter(runtime(other).values())), eager), "the graph must read the new frame"
    assert np.array_equal(next(iter(runtime(frame).values())), eager)
    runtime.close()


def test_two_engines_in_one_process(bundle, built, target):
    one, two = load(bundle, target), load(bundle, target, "fp32")
    frame = inputs_of(bundle)
    alone = [next(iter(runtime(frame).values())) for runtime in (one, two)]
    for _ in range(10):
        for runtime, expected in zip((one, two), alone, strict=True):
            assert np.array_equal(next(iter(runtime(frame).values())), expected)
    one.close()
    assert np.array_equal(next(iter(two(frame).values())), alone[1])
    two.close()


@pytest.mark.slow
def test_ten_thousand_frames_take_no_more_memory(bundle, built, target):
    gpu = gpu_or_none()
    assert gpu is not None
    runtime, frame, process = load(bundle, target), inputs_of(bundle), psutil.Process()
    for _ in range(500):
        runtime(frame)
    host, device = process.memory_info().rss, free_memory(gpu)
    for _ in range(10_000):
        runtime(frame)
    assert process.memory_info().rss - host < 16 << 20
    assert device - free_memory(gpu) < (64 if gpu.integrated else 16) << 20
    runtime.close()


def test_opening_again_and_again_gives_everything_back(bundle, built, target):
    gpu = gpu_or_none()
    assert gpu is not None
    frame = inputs_of(bundle)

    def once():
        runtime = load(bundle, target)
        runtime(frame)
        runtime.close()

    once()
    before = free_memory(gpu)
    for _ in range(5):
        once()
    assert before - free_memory(gpu) < 64 << 20


def test_latency_is_told_and_steady(bundle, built, target):
    runtime, frame = load(bundle, target), inputs_of(bundle)
    timed = measure({"fp16": lambda: runtime(frame)}, budget=3.0)["fp16"]
    runtime.close()
    print(f"{target} fp16 on {gpu_or_none()}: p50 {timed.p50:.2f} ms, p99 {timed.p99:.2f} ms, {timed.calls} calls")
    assert 0 < timed.p50 <= timed.p99 < 20 * timed.p50


def test_auto_takes_the_engine_and_the_first_frame_is_not_the_slow_one(bundle, built, target):
    with cdm_export.open(bundle.path, backend=target) as refine:
        assert refine.describe().executed["cuda_graph"].startswith("on")
        camera = refine.contract.camera
        frame = cdm_export.Frame(
            np.zeros((camera.height, camera.width, 3), np.uint8), np.ones((camera.height, camera.width), np.float32)
        )
        times = []
        for _ in range(20):
            started = time.perf_counter()
            refine(frame)
            times.append(time.perf_counter() - started)
    assert times[0] < 5 * float(np.median(times))


def test_damaged_engine_never_reaches_the_library(bundle, built, target):
    found = engines.find(bundle, get_backend(target), "fp32")
    assert found is not None
    whole = found.path.read_bytes()
    try:
        found.path.write_bytes(whole[:-100])
        with pytest.raises(BundleError, match="its record says"):
            load(bundle, target, "fp32")
    finally:
        found.path.write_bytes(whole)


def test_bisect_looks_into_an_engine(bundle, target):
    if os.environ.get("CDM_EXPORT_TEST_BUNDLE"):
        pytest.skip("needs the graph library, which a device has not")
    done = cli(
        "verify", bundle.path, "--bisect", "--backend", target, "--precision", "fp16", "--against", "onnxruntime:fp32",
        "--json", timeout=3600,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert len(json.loads(done.stdout)["stages"]) > 10


def test_device_times_its_own_stages(bundle, built, target):
    """By events; together they fit into the time that the host waited."""
    with cdm_export.open(bundle.path, target, "fp16") as refine:
        contract = refine.contract
        plane = (contract.camera.height, contract.camera.width)
        timing = refine(cdm_export.Frame(np.zeros((*plane, 3), np.uint8), np.ones(plane, np.float32))).timing
    assert "engine" in timing.device and all(milliseconds > 0 for milliseconds in timing.device.values())
    assert sum(timing.device.values()) <= timing.inference
    print({stage: f"{milliseconds:.3f} ms" for stage, milliseconds in timing.device.items()})
