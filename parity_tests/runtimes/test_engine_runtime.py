"""The engine runtime's own logic on stand-ins, and its refusals on a real engine. Devices: ``test_tensorrt_gpu.py``."""

import json
import threading

import numpy as np
import pytest

from cdm_export.runtimes import engines, nvidia, tensorrt
from cdm_export.runtimes.backends import get_backend, load_runtime
from cdm_export.runtimes.bundle import FileRecord, State
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.engine_record import BuildSettings, EngineRecord, LayerReport, Machine, Source
from cdm_export.runtimes.errors import BackendUnavailable, BundleError, EngineRunError, RuntimeMisuse
from cdm_export.runtimes.runtime import CheckedRuntime
from cdm_export.runtimes.tensorrt_api import Log
from parity_tests.engine_bundle import SIDE, contract, make_bundle
from parity_tests.fake_tensorrt import DataType, FakeCudart, FakeEngine, fake_trt

ORIN = nvidia.Gpu(name="Orin", compute_capability="8.7", integrated=True, memory=8 << 30, cuda="12.6")
RTX_4090 = nvidia.Gpu(name="RTX 4090", compute_capability="8.9", integrated=False, memory=24 << 30, cuda="13.0")
SHAPES = {spec.name: spec.shape for spec in (*contract().inputs, *contract().outputs)}


def record(**changed):
    made = EngineRecord(
        schema_version=1,
        created="2026-01-01T00:00:00+00:00",
        producer="cdm-export 0.1.0",
        precision="fp16",
        source=Source(artifact="onnx/fp16", identity="0" * 64),
        contract=contract(),
        engine=FileRecord(path=engines.PLAN, size=4, sha256="0" * 64),
        machine=Machine(backend="tensorrt", version="10.3.0", system="L4T36.4.3", gpu=ORIN),
        settings=BuildSettings(typing="strong", tf32=False, optimization_level=3, workspace=0),
        layer_report=LayerReport(
            source="none", kernels=0, by_kind={}, fused_attention=0, float32_products=(), claims=()
        ),
        warnings=(),
        build_seconds=1.0,
        state=State.PUBLISHED,
        self_test=None,
        measured_ms=None,
    )
    return made.model_copy(update=changed)


def add(arrays):
    arrays["inverse_depth_refined"][:] = arrays["inverse_depth"] + arrays["image"].sum(axis=1, keepdims=True)


def opened(compute=add, gpu=RTX_4090, tensors=None, cudart=None, **changed):
    cudart = cudart or FakeCudart()
    engine = FakeEngine(cudart, tensors or {name: (shape, DataType.FLOAT) for name, shape in SHAPES.items()}, compute)
    trt = fake_trt(engine)
    session = tensorrt.TensorRt(trt, b"plan", record(**changed), get_backend("tensorrt"), gpu, cudart, Log())
    runtime = CheckedRuntime(session, session.contract)
    return runtime, cudart, engine


def frame(seed):
    rng = np.random.default_rng(seed)
    return {spec.name: rng.random(spec.shape, np.float32) for spec in contract().inputs}


def expected(inputs):
    return inputs["inverse_depth"] + inputs["image"].sum(axis=1, keepdims=True)


@pytest.mark.parametrize("gpu", [ORIN, RTX_4090], ids=["integrated", "discrete"])
def test_first_call_is_eager_later_ones_are_the_graph(gpu):
    runtime, cudart, _ = opened(gpu=gpu)
    results = []
    for seed in range(3):
        results.append(runtime(frame(seed))["inverse_depth_refined"])
        if seed == 0:
            assert runtime.describe().executed["cuda_graph"] == "on, equal to the eager result"
            cudart.calls.clear()
    assert all(np.array_equal(result, expected(frame(seed))) for seed, result in enumerate(results))
    copies = 0 if gpu.integrated else 1
    assert cudart.calls == [
        "cudaEventRecord", *["cudaMemcpyAsync"] * 2 * copies, "cudaEventRecord", "cudaGraphLaunch",
        "cudaEventRecord", *["cudaMemcpyAsync"] * copies, "cudaEventRecord", "cudaStreamSynchronize",
    ] * 2  # fmt: skip
    assert runtime.describe().executed["zero_copy"] == gpu.integrated
    runtime.close()


def test_stages_are_timed_on_the_device_with_and_without_the_graph():
    """Two inputs and an output; the fake's copies take 1 ms in and 2 ms out, its engine 10 ms."""
    runtime, _, _ = opened()
    for seed in range(2):
        runtime(frame(seed))
        assert runtime.device_stages() == {"host to device": 2.0, "engine": 10.0, "device to host": 2.0}
    shared, _, _ = opened(gpu=ORIN)
    shared(frame(0))
    assert shared.device_stages() == {"engine": 10.0}


def test_a_graph_that_does_nothing_is_not_used():
    """What the eager run left on the device would be the right answer."""
    runtime, cudart, _ = opened()
    cudart.cudaGraphLaunch = lambda graph, stream: (0,)
    runtime(frame(0))
    assert "differs from the eager" in runtime.describe().executed["cuda_graph"]


def test_integrated_gpu_copies_nothing():
    runtime, cudart, _ = opened(gpu=ORIN)
    runtime(frame(0))
    assert "cudaMemcpyAsync" not in cudart.calls and "cudaMalloc" not in cudart.calls


def test_graph_that_differs_is_not_used():
    calls = []

    def drifting(arrays):
        calls.append(1)
        add(arrays)
        arrays["inverse_depth_refined"] += len(calls) - 1

    runtime, cudart, _ = opened(drifting)
    assert np.array_equal(runtime(frame(0))["inverse_depth_refined"], expected(frame(0)))
    assert "differs from the eager" in runtime.describe().executed["cuda_graph"]
    cudart.calls.clear()
    runtime(frame(1))
    assert "cudaGraphLaunch" not in cudart.calls


def test_capture_that_fails_leaves_the_eager_way():
    cudart = FakeCudart()
    cudart.fail["cudaGraphInstantiateWithFlags"] = 801
    runtime, _, _ = opened(cudart=cudart)
    for seed in range(2):
        assert np.array_equal(runtime(frame(seed))["inverse_depth_refined"], expected(frame(seed)))
    assert "error 801" in runtime.describe().executed["cuda_graph"]
    runtime.close()
    assert not cudart.memory and not cudart.streams and not cudart.graphs and not cudart.events


def test_everything_is_given_back():
    runtime, cudart, _ = opened()
    runtime(frame(0))
    assert len(cudart.memory) == 6 and cudart.graphs
    runtime.close()
    runtime.close()
    assert not cudart.memory and not cudart.streams and not cudart.graphs and not cudart.events
    with pytest.raises(RuntimeMisuse, match="closed"):
        runtime(frame(0))


def test_two_engines_do_not_share_buffers():
    one, two = opened()[0], opened()[0]
    first, second = one(frame(1))["inverse_depth_refined"], two(frame(2))["inverse_depth_refined"]
    assert np.array_equal(first, expected(frame(1))) and np.array_equal(second, expected(frame(2)))


def test_outputs_of_the_workaround_get_memory_and_are_not_returned():
    shares = {"shares": ((1, 2, SIDE, SIDE), DataType.HALF)}
    tensors = {**{name: (shape, DataType.FLOAT) for name, shape in SHAPES.items()}, **shares}
    settings = BuildSettings(
        typing="strong", tf32=False, optimization_level=3, workspace=0, workaround="fusion-breaker",
        extra_outputs=("shares",),
    )  # fmt: skip
    runtime, cudart, _ = opened(tensors=tensors, settings=settings)
    assert list(runtime(frame(0))) == ["inverse_depth_refined"]
    assert sorted(len(buffer) for buffer in cudart.memory.values())[0] == 2 * 2 * SIDE * SIDE


def test_engine_with_another_boundary_is_refused():
    cudart = FakeCudart()
    tensors = {name: (shape, DataType.FLOAT) for name, shape in SHAPES.items()}
    with pytest.raises(BundleError, match="interface"):
        opened(tensors={**tensors, "image": ((1, 3, 8, 8), DataType.FLOAT)}, cudart=cudart)
    with pytest.raises(BundleError, match="'image' of the engine is HALF"):
        opened(tensors={**tensors, "image": (SHAPES["image"], DataType.HALF)}, cudart=cudart)
    assert not cudart.memory and not cudart.streams


def test_device_that_fails_is_told_in_its_own_words():
    runtime, _, engine = opened()
    engine.broken = True
    with pytest.raises(EngineRunError, match="Cask error in kernel"):
        runtime(frame(0))


def test_memory_that_is_not_there():
    cudart = FakeCudart()
    cudart.fail["cudaMalloc"] = 2
    with pytest.raises(EngineRunError, match="cudaMalloc with error 2"):
        opened(cudart=cudart)
    assert not cudart.memory and not cudart.streams


def test_library_that_refuses_the_engine_is_quoted():
    with pytest.raises(BundleError, match=r"TensorRT 10.3.0 refuses the engine: Version tag does not match"):
        tensorrt.TensorRt(
            fake_trt(None), b"plan", record(), get_backend("tensorrt"), RTX_4090, FakeCudart(), Log()
        )  # fmt: skip


def test_one_thread():
    runtime, _, _ = opened()
    caught = []

    def elsewhere():
        try:
            runtime(frame(0))
        except RuntimeMisuse as error:
            caught.append(error.message)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_differences_between_machines():
    machine = record().machine
    assert machine.differences(machine) == []
    updated = ORIN.model_copy(update={"cuda": "13.2"})
    here = machine.model_copy(update={"version": "10.16.2", "system": "L4T39.2", "gpu": updated})
    assert machine.differences(here) == [
        "version 10.3.0, here 10.16.2", "system L4T36.4.3, here L4T39.2", "CUDA 12.6, here 13.2",
    ]  # fmt: skip
    assert "GPU Orin, here RTX 4090" in machine.differences(machine.model_copy(update={"gpu": RTX_4090}))
    anywhere = machine.model_copy(update={"backend": "tensorrt-rtx", "gpu": None})
    assert anywhere.differences(anywhere.model_copy(update={"gpu": RTX_4090})) == []
    assert engines.folder_name(machine) == "trt-10.3.0-sm87-cuda12.6-L4T36.4.3-Orin"


def test_jetson_linux_release():
    text = (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC"
    )
    assert nvidia.l4t_release(text) == "36.4.3" and nvidia.l4t_release("nothing") is None


def test_known_issues_concern_what_they_say():
    from cdm_export.tensorrt.known_issues import concerning

    machine = record().machine
    assert ["#4723" in issue.source for issue in concerning(machine, "fp16")] == [True]
    assert concerning(machine, "fp32") == []
    assert concerning(machine.model_copy(update={"version": "10.12.0"}), "fp16") == []
    assert concerning(machine.model_copy(update={"version": "10.4.0"}), "fp32")
    sm120 = RTX_4090.model_copy(update={"compute_capability": "12.0"})
    blackwell = machine.model_copy(update={"version": "10.16.1.11", "gpu": sm120})
    assert "#4837" in concerning(blackwell, "bf16")[0].source
    assert concerning(blackwell.model_copy(update={"gpu": RTX_4090}), "bf16") == []
    sampling = machine.model_copy(update={"version": "10.14.1"})
    assert concerning(sampling, "fp16", {"MatMul"}) == []
    assert "#4646" in concerning(sampling, "fp16", {"GridSample", "MatMul"})[0].source


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A real engine of TensorRT-RTX, and a machine that claims to have a driver."""
    pytest.importorskip("tensorrt_rtx_bindings")
    from cdm_export.progress import Silent
    from cdm_export.tensorrt.build import BuildRequest, build_bundle

    bundle = make_bundle(tmp_path / "tiny.bundle")
    engine = build_bundle(BuildRequest(bundle.path, "tensorrt-rtx", "fp16"), Silent()).engine
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: RTX_4090)
    monkeypatch.setattr(tensorrt, "require_cuda", FakeCudart)
    return bundle, engine


def load(bundle, engine, precision="fp16", **contract_changes):
    wanted = bundle.manifest.contract.model_copy(update=contract_changes)
    return load_runtime(get_backend("tensorrt-rtx"), engine.path, wanted, precision)


def rewrite(engine, change):
    path = engine.path.parent / engines.RECORD
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_engine_that_fits_reaches_the_library_which_wants_a_driver(built):
    if nvidia.gpu_or_none() is not None:
        pytest.skip("there is a driver here")
    with pytest.raises(BundleError, match=r"TensorRT-RTX .* refuses the engine: .*35"):
        load(*built)


def test_without_a_driver_the_library_is_not_touched(built, monkeypatch):
    monkeypatch.undo()
    if nvidia.gpu_or_none() is not None:
        pytest.skip("there is a driver here")
    monkeypatch.setattr("cdm_export.runtimes.tensorrt_api.load_library", lambda backend: pytest.fail("touched"))
    with pytest.raises(BackendUnavailable, match="NVIDIA driver"):
        load(*built)


def test_truncated_engine(built):
    bundle, engine = built
    whole = engine.path.read_bytes()
    engine.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match=rf"has {len(whole) // 2:,} bytes, its record says {len(whole):,}"):
        load(bundle, engine)


def test_changed_engine(built):
    bundle, engine = built
    data = bytearray(engine.path.read_bytes())
    data[len(data) // 2] ^= 1
    engine.path.write_bytes(data)
    with pytest.raises(BundleError, match="was changed since it was built"):
        load(bundle, engine)


def test_engine_of_another_gpu(built):
    bundle, engine = built
    rewrite(engine, lambda data: data["machine"].update(gpu=ORIN.model_dump()))
    with pytest.raises(BackendUnavailable) as caught:
        load(bundle, engine)
    said = str(caught.value)
    assert "GPU Orin, here RTX 4090" in said and "compute capability 8.7, here 8.9" in said
    assert "CUDA 12.6, here 13.0" in said
    assert f"cdm-export build {bundle.path} --target tensorrt-rtx --precision fp16" in said


def test_engine_of_another_release(built):
    bundle, engine = built
    rewrite(engine, lambda data: data["machine"].update(version="1.4.0"))
    with pytest.raises(BackendUnavailable, match=r"version 1\.4\.0, here 1\."):
        load(bundle, engine)


def test_engine_without_a_record_or_with_a_foreign_one(built):
    bundle, engine = built
    rewrite(engine, lambda data: data.update(schema_version=2))
    with pytest.raises(BundleError, match="schema_version"):
        load(bundle, engine)
    (engine.path.parent / engines.RECORD).unlink()
    with pytest.raises(BundleError, match="an engine without its record is not loaded"):
        load(bundle, engine)
    assert engines.scan(bundle) == []


def test_engine_that_failed(built):
    bundle, engine = built
    rewrite(engine, lambda data: data.update(state="failed"))
    with pytest.raises(BundleError, match="evidence, not an engine"):
        load(bundle, engine)


def test_engine_of_another_contract_or_precision(built):
    bundle, engine = built
    with pytest.raises(BundleError, match="another contract"):
        load(bundle, engine, camera=Size(32, 32))
    with pytest.raises(BundleError, match="another contract than asked for"):
        load(bundle, engine, precision="fp32")
