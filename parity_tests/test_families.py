"""Families of networks from the command line to every target: export, Core ML, engines, run, verify, bench, report."""

import json

import cv2
import numpy as np
import pytest

from cdm_export.runtimes import engines
from cdm_export.runtimes.bundle import Bundle, State
from parity_tests.conftest import cli

INT8 = ("--precision", "fp32,fp16,int8", "--calibration", "synthetic:4", "--keep-slower")
MIDAS = ("--preprocessing", "muggled", "--aspect", "--camera", "128x96", "--target", "onnx,coreml")
EXPORTS = {
    "midas-swin2-tiny-256": (*MIDAS, *INT8, "--input-size", "128"),
    "midas-beit-base-384": (*MIDAS, "--input-size", "96"),
    "bdedepth-resnet18": ("--camera", "160x96", "--input-size", "64"),
    "nndepth-raft-64": ("--camera", "160x96", "--input-size", "96", "--iterations", "2"),
    "nndepth-crestereo": ("--camera", "160x96", "--input-size", "96", "--iterations", "2"),
    "igev-stereo": ("--camera", "160x96", "--iterations", "2", "--target", "onnx,coreml"),
    "raft-stereo-realtime": ("--camera", "160x96", "--iterations", "2", "--target", "onnx,coreml"),
}
FUSED = {"midas-swin2-tiny-256": 12, "midas-beit-base-384": 12}
"""Attentions that are one kernel in TensorRT-RTX."""


@pytest.fixture(scope="module", params=[
    name if name != "midas-beit-base-384" else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTS
])  # fmt: skip
def exported(request, tmp_path_factory):
    """One model's bundle, small, with seeded weights."""
    out = tmp_path_factory.mktemp("family") / f"{request.param}.bundle"
    options = EXPORTS[request.param]
    common = ("--random-weights", 0, "--model", request.param, "--frames", "synthetic:2", "--fit", "-q")
    done = cli("export", *common, *options, "-o", out)
    assert done.returncode == 0, done.stderr
    return request.param, out


def test_every_artifact_passed(exported):
    name, path = exported
    manifest = Bundle.open(path, full=True).manifest
    coreml = ["coreml/fp32", "coreml/fp16"] if "--target" in EXPORTS[name] else []
    second = ["onnx/fp16-attn32"] if name in FUSED else []
    int8 = ["onnx/int8", "onnx/int8-fp16"] if "int8" in " ".join(map(str, EXPORTS[name])) else []
    assert [one.name for one in manifest.artifacts] == ["onnx/fp32", "onnx/fp16", *second, *int8, *coreml]
    for artifact in manifest.artifacts:
        elsewhere = artifact.name.startswith("coreml") or artifact.name == "onnx/int8-fp16"
        assert artifact.state is (State.CANDIDATE if elsewhere else State.PUBLISHED), "what waits for its own device"
        assert artifact.verdicts and all(verdict.verdict == "passed" for verdict in artifact.verdicts), artifact.name
    assert manifest.contract.model.partition("@")[0] == name
    weights = next(one for one in manifest.artifacts if one.name == "onnx/fp32")
    parameters = {"midas-swin2-tiny-256": 41.7, "midas-beit-base-384": 111.5}.get(name)
    if parameters is not None:
        assert sum(file.size for file in weights.files) < 1.3 * 4e6 * parameters, "biases are not spread in the file"


def test_an_engine_of_it(exported):
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    name, path = exported
    done = cli("build", path, "--target", "tensorrt-rtx", "--precision", "fp16", "--json")
    assert done.returncode == 0, done.stderr
    (engine,) = engines.scan(Bundle.open(path))
    assert engine.record.layer_report.fused_attention == FUSED.get(name, 0)
    assert not engine.record.layer_report.broken


def test_what_comes_out_is_called_what_it_is(exported, tmp_path):
    _, path = exported
    contract = Bundle.open(path).manifest.contract
    pair, camera = contract.reads("right"), contract.camera
    rgb = np.random.default_rng(0).integers(0, 256, (camera.height, camera.width, 3), np.uint8)
    for eye in ("l.png", "r.png"):
        cv2.imwrite(str(tmp_path / eye), cv2.GaussianBlur(rgb, (0, 0), 3))
    given = ("--left", tmp_path / "l.png", "--right", tmp_path / "r.png") if pair else ("--input", tmp_path / "l.png")
    done = cli("run", path, *given, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    (frame,) = json.loads(done.stdout)["frames"]
    assert frame["unit"] == ("px" if pair else "")
    values = np.load(next((tmp_path / "out").glob("*.npy")))
    assert values.shape == (camera.height, camera.width) and np.isfinite(values).all() and values.std() > 0
    if pair:
        alone = cli("run", path, "--input", tmp_path / "l.png", "-o", tmp_path / "none", "--json")
        assert alone.returncode == 2 and "right" in alone.stderr and not (tmp_path / "none").exists()


def test_meters_by_a_calibration(exported, tmp_path):
    _, path = exported
    if not Bundle.open(path).manifest.contract.reads("right"):
        pytest.skip("no stereo model")
    rgb = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    for eye in ("l.png", "r.png"):
        cv2.imwrite(str(tmp_path / eye), rgb)
    camera = "[100 0 80; 0 100 48; 0 0 1]"
    for size, code in ((160, 0), (320, 2)):
        (tmp_path / "calib.txt").write_text(
            f"cam0={camera}\ncam1={camera}\ndoffs=0\nbaseline=200\nwidth={size}\nheight={size * 96 // 160}\n"
        )
        given = ("--left", tmp_path / "l.png", "--right", tmp_path / "r.png", "--calib", tmp_path / "calib.txt")
        done = cli("run", path, *given, "-o", tmp_path / f"out{size}", "--json")
        assert done.returncode == code, done.stderr
    pixels = cli("run", path, *given[:4], "-o", tmp_path / "px", "--json")
    assert pixels.returncode == 0
    disparity = np.load(next((tmp_path / "px").glob("*.npy")))
    meters = np.load(next((tmp_path / "out160").glob("*.npy")))
    seen = (disparity > 0) & (meters > 0)
    assert seen.mean() > 0.05
    np.testing.assert_allclose(meters[seen], 100 * 0.2 / disparity[seen], rtol=1e-4)


def test_verified_timed_and_reported(exported, tmp_path):
    _, path = exported
    done = cli("verify", path, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["passed"], done.stderr
    done = cli("bench", path, "--precision", "fp32", "--frames", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert {entry["backend"] for entry in json.loads(done.stdout)["entries"]} == {"onnxruntime", "openvino"}
    done = cli("report", path, "-o", tmp_path / "report.html")
    assert done.returncode == 0 and (tmp_path / "report.html").stat().st_size > 10_000, done.stderr
