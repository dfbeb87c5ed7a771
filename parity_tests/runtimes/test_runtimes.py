"""Every backend keeps the same promises."""

import re
import shutil
import threading

import numpy as np
import pytest

import cdm_export
from cdm_export.runtimes.backends import BACKENDS, get_backend, load_runtime
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import BackendUnavailable, BundleError, InputError, RuntimeMisuse
from cdm_export.runtimes.install import install

HERE = ("torch", "openvino", "onnxruntime")


@pytest.fixture(params=HERE)
def pipeline(request, small_bundle):
    with cdm_export.open(small_bundle, backend=request.param, warmup=False) as opened:
        yield opened


def test_depth_is_the_stored_reference(pipeline, small_bundle):
    bundle = Bundle.open(small_bundle)
    for golden in bundle.manifest.golden:
        with np.load(bundle.file(golden.file)) as arrays:
            depth_m = arrays["raw_depth"].astype(np.float32) / np.float32(arrays["depth_scale"])
            result = pipeline(cdm_export.Frame(arrays["rgb"], depth_m))
            assert np.array_equal(result.valid, arrays["valid"])
            both = result.valid
            relative = np.abs(result.depth_m[both] / arrays["depth"][both] - 1)
        assert relative.mean() <= 5e-6 and relative.max() <= 1e-3
        assert (result.depth_m[~both] == 0).all()


def test_describes_what_executes(pipeline):
    said = pipeline.describe()
    assert said.precision == "fp32" and said.threads >= 1 and said.device.startswith("CPU")
    assert said.versions and all(said.versions.values())
    expected = {"torch": "eager", "openvino": "CPU", "onnxruntime": "CPUExecutionProvider"}
    assert said.provider == expected[said.backend]
    if said.backend == "openvino":
        assert said.executed["precision_hint"] == "f32"
        assert said.executed["nodes_by_precision"]["f32"] > 100
        assert not {"f16", "bf16"} & set(said.executed["nodes_by_precision"])


def test_belongs_to_one_thread(pipeline, frame):
    caught = []

    def elsewhere():
        try:
            pipeline(frame(Size(160, 120)))
        except RuntimeMisuse as error:
            caught.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 1 and "belongs to the thread that opened it" in caught[0]
    assert pipeline(frame(Size(160, 120))).valid.any()


def test_wrong_tensors_are_refused(pipeline):
    contract = pipeline.contract
    good = {spec.name: np.zeros(spec.shape, np.float32) for spec in contract.inputs}
    runtime = pipeline.runtime
    with pytest.raises(RuntimeMisuse, match="expected"):
        runtime({"image": good["image"]})
    with pytest.raises(RuntimeMisuse, match="float64"):
        runtime({**good, "image": good["image"].astype(np.float64)})
    with pytest.raises(RuntimeMisuse, match="expected float32"):
        runtime({**good, "image": good["image"][..., :-1]})


def test_results_stay_valid_after_the_next_call(pipeline, frame):
    first = pipeline(frame(Size(160, 120)))
    kept = first.values.copy()
    pipeline(cdm_export.Frame(np.full((120, 160, 3), 255, np.uint8), np.full((120, 160), 0.5, np.float32)))
    assert np.array_equal(first.values, kept)


def test_closed_is_closed(small_bundle, frame):
    opened = cdm_export.open(small_bundle, backend="onnxruntime")
    opened.close()
    opened.close()
    with pytest.raises(RuntimeMisuse, match="closed"):
        opened(frame(Size(160, 120)))


def test_covered_lens_is_flagged_not_raised(pipeline):
    result = pipeline(cdm_export.Frame(np.zeros((120, 160, 3), np.uint8), np.zeros((120, 160), np.float32)))
    assert result.health.sensor_share == 0 and result.health.non_finite_share == 0
    assert np.isfinite(result.values).all()


def test_health_and_timing(pipeline, frame):
    import time

    seen = frame(Size(160, 120))
    result = pipeline(cdm_export.Frame(seen.rgb, seen.depth, captured_at=time.monotonic() - 1))
    assert 1 <= result.health.age < 60
    assert result.health.valid_share == result.valid.mean()
    assert 0.5 < result.health.sensor_share <= 1
    assert result.timing.inference > 0 and result.timing.total >= result.timing.inference


def test_far_and_max_depth_can_be_changed(small_bundle, frame):
    seen = frame(Size(160, 120))
    with cdm_export.open(small_bundle, backend="onnxruntime", far=1.0, max_depth=1.5) as near:
        result = near(seen)
    assert result.values.max() < 1.0
    assert result.health.sensor_share == pytest.approx(((seen.depth > 0) & (seen.depth <= 1.5)).mean())
    with pytest.raises(InputError, match="far must be above 0"):
        cdm_export.open(small_bundle, far=-1)


def test_cuda_asked_for_is_never_cpu_in_silence(small_bundle):
    with pytest.raises(BackendUnavailable, match="CUDAExecutionProvider"):
        cdm_export.open(small_bundle, backend="onnxruntime-cuda")


def test_library_that_is_not_installed(small_bundle, monkeypatch):
    import dataclasses

    absent = dataclasses.replace(BACKENDS["openvino"], library="no_such_library")
    bundle = Bundle.open(small_bundle)
    with pytest.raises(BackendUnavailable, match=re.escape(install("cpu"))):
        load_runtime(absent, bundle.path, bundle.manifest.contract, "fp32")


def test_precision_a_backend_cannot_run(small_bundle):
    bundle = Bundle.open(small_bundle)
    with pytest.raises(BackendUnavailable, match="does not run bf16"):
        load_runtime(BACKENDS["onnxruntime"], bundle.path, bundle.manifest.contract, "bf16")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_file_that_is_no_graph(small_bundle, tmp_path, backend):
    bad = tmp_path / "fp32.onnx"
    bad.write_bytes(b"not a graph at all" * 100)
    with pytest.raises(BundleError, match="refused"):
        load_runtime(BACKENDS[backend], bad, Bundle.open(small_bundle).manifest.contract, "fp32")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_graph_of_another_contract(small_bundle, backend):
    bundle = Bundle.open(small_bundle)
    contract = bundle.manifest.contract
    wider = contract.inputs[0].model_copy(update={"shape": (1, 3, 70, 112)})
    other = contract.model_copy(update={"inputs": (wider, contract.inputs[1])})
    path = bundle.artifact_file(bundle.manifest.artifacts[0])
    with pytest.raises(BundleError, match="interface"):
        load_runtime(BACKENDS[backend], path, other, "fp32")


def test_threads_are_selectable(small_bundle):
    for backend in ("onnxruntime", "openvino"):
        with cdm_export.open(small_bundle, backend=backend, threads=1) as opened:
            assert opened.describe().threads == 1


def test_unknown_backend_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'onnxruntime'"):
        get_backend("onxruntime")


def test_bundle_moved_to_another_folder_still_runs(small_bundle, tmp_path, frame):
    moved = tmp_path / "moved.bundle"
    shutil.copytree(small_bundle, moved)
    with cdm_export.open(moved, backend="onnxruntime") as opened:
        assert opened(frame(Size(160, 120))).valid.any()


def test_nan_from_the_network_is_an_error_and_nothing_is_written(small_bundle, tmp_path, monkeypatch):
    from cdm_export.predict.frames import refine
    from cdm_export.runtimes.errors import ParityError
    from cdm_export.runtimes.sources import open_source

    with cdm_export.open(small_bundle, backend="onnxruntime", warmup=False) as opened:
        run = opened.runtime

        def broken(inputs):
            outputs = run(inputs)
            outputs["inverse_depth_refined"][0, 0, 5, 5] = np.nan
            return outputs

        monkeypatch.setattr(opened, "runtime", broken)
        with pytest.raises(ParityError, match="NaN or Inf: nothing written"):
            refine(opened, open_source("synthetic:1", camera=Size(160, 120)).load(0), tmp_path, "", "")
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
