"""Pixel agreement with eager float32 PyTorch: every camera size, every CPU backend, real frames; and what must fail."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.memory import run_sampled
from cdm_export.onnx.convert import export_onnx
from cdm_export.parity.check_backend import check_backend
from cdm_export.parity.golden import ReferenceFrame, load_reference, save_frame, save_output
from cdm_export.progress import Silent
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import Size
from parity_tests.conftest import SHARED_FRAMES, cli, write_frame

CPU_BACKENDS = ("openvino", "onnxruntime")

REAL = {"redwood_0": 1000, "redwood_1": 1000, "redwood_2": 1000, "redwood_3": 1000, "redwood_4": 1000,
        "tum_0": 5000, "cdm_26": 10000}  # fmt: skip
"""Frames of a developer's checkout, with their depth scales."""


def real_frames(folder: Path, stems: list[str]) -> Path:
    """frames.json with the sample pair and ``stems``: real frames where they are here, else a rendered one for each."""
    from cdm_export.runtimes.sources import open_source

    sample = open_source("sample").load(0)
    cv2.imwrite(str(folder / "sample.color.png"), cv2.cvtColor(sample.frame.rgb, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(folder / "sample.depth.png"), np.asarray(sample.raw_depth))
    frames = [{"color": "sample.color.png", "depth": "sample.depth.png", "depth_scale": sample.depth_scale}]
    for stem in stems:
        if not SHARED_FRAMES.is_dir():
            rendered = open_source(f"synthetic:1:{list(REAL).index(stem)}", camera=Size(640, 480)).load(0).frame
            color, depth = write_frame(folder, stem, rendered)
            frames.append({"color": color.name, "depth": depth.name, "depth_scale": 1000})
            continue
        (color,) = SHARED_FRAMES.glob(f"{stem}.color.*")
        depth = SHARED_FRAMES / f"{stem}.depth.png"
        frames.append({"color": str(color), "depth": str(depth), "depth_scale": REAL[stem]})
    path = folder / "frames.json"
    path.write_text(json.dumps({"frames": frames}))
    return path


def assert_every_backend_passed(bundle: Path, frames: int) -> None:
    report = json.loads((bundle / "reports" / "parity.json").read_text())
    ran = {(backend["backend"], backend["precision"]) for backend in report["backends"]}
    typed = {("torch", "fp16"), ("onnxruntime", "fp16"), ("onnxruntime", "fp16-attn32")}
    assert ran == {(name, "fp32") for name in CPU_BACKENDS} | typed, "a gate was skipped"
    assert all(backend["verdict"]["verdict"] == "passed" for backend in report["backends"])
    for backend in (backend for backend in report["backends"] if backend["precision"] == "fp32"):
        assert backend["verdict"]["verdict"] == "passed" and len(backend["frames"]) == frames
        for frame in backend["frames"]:
            assert frame["comparable"] >= 0.9
            assert frame["depth"]["mean"] <= 5e-6 and frame["depth"]["p99"] <= 5e-5 and frame["depth"]["max"] <= 1e-3
            assert frame["mask_disagreement"] == 0 and frame["network"]["non_finite"] == 0
            assert frame["network"]["cosine"] > 1 - 1e-9
    for name in CPU_BACKENDS:
        picture = cv2.imread(str(bundle / "reports" / f"{name}-fp32.png"))
        assert picture is not None and picture.std() > 10


@pytest.mark.parametrize(
    ("camera", "stems"),
    [
        ("640x480", ["tum_0"]),
        pytest.param("640x480", list(REAL), marks=pytest.mark.slow),
        pytest.param("1280x720", ["redwood_0", "cdm_26"], marks=pytest.mark.slow),
        pytest.param("848x480", ["redwood_3"], marks=pytest.mark.slow),
        pytest.param("1920x1080", ["cdm_26"], marks=pytest.mark.slow),
        pytest.param("512x512", ["tum_0"], marks=pytest.mark.slow),
    ],
)
def test_vits_at_every_camera_size(camera, stems, tmp_path):
    frames = real_frames(tmp_path, stems)
    out = tmp_path / "vits.bundle"
    done = cli(
        "export", "--random-weights", 0, "--model", "cdm-vits", "--camera", camera, "--frames", frames, "--fit",
        "-o", out, "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_every_backend_passed(out, len(json.loads(frames.read_text())["frames"]))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cdm-vitb", "cdm-vitl"])
def test_large_models_in_time_and_memory(model, tmp_path):
    """The large model is held once: 1.6 x its weights is all that a whole verified export may occupy."""
    out = tmp_path / "large.bundle"
    run = run_sampled(
        [sys.executable, "-m", "cdm_export", "export", "--random-weights", "0", "--model", model,
         "--camera", "640x480", "-o", str(out), "--quiet"]
    )  # fmt: skip
    assert run.exit_code == 0
    assert_every_backend_passed(out, 1)
    weights = get_variant(model).million_parameters * 4e6
    assert run.peak_rss_anon >= weights, "nothing was sampled"
    if model == "cdm-vitl":
        assert run.peak_rss_anon <= 1.6 * weights


@pytest.fixture
def references(small_bundle):
    bundle = Bundle.open(small_bundle)
    return [ReferenceFrame(golden.name, bundle.path / golden.file.path) for golden in bundle.manifest.golden]


@pytest.fixture
def verify_graph(references, small_bundle):
    """Verdict of a graph against the golden frames of the small bundle."""
    contract = Bundle.open(small_bundle).manifest.contract

    def verify(path: Path, backend: str):
        return check_backend(backend, path, contract, "fp32", references, "golden", Silent()).verdict

    return verify


def edited(small_bundle: Path, out: Path, change) -> Path:
    """The small bundle's graph with the last convolution (weight, bias) changed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(small_bundle / "onnx" / "fp32.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for suffix in ("weight", "bias"):
        tensor = tensors[f"network.depth_head_rgbd.scratch.output_conv2.2.{suffix}"]
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_the_graph_itself_passes(small_bundle, verify_graph, backend):
    assert verify_graph(small_bundle / "onnx" / "fp32.onnx", backend).verdict == "passed"


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor * 0, ("valid mask differs",)),
        (lambda tensor: tensor * np.float32(1e-3), ("valid mask differs",)),
        # OpenVINO's ReLU makes 0 of NaN: then it is the mask that gives it away.
        (
            lambda tensor: tensor * np.float32(np.nan),
            ("NaN or Inf", "valid mask differs in 99.", "valid mask differs in 100."),
        ),
        (lambda tensor: tensor * np.float32(1.0001), ("mean relative depth error",)),
    ],
    ids=["all zero", "out of range", "NaN", "off by 1e-4"],
)
def test_a_wrong_graph_fails(small_bundle, verify_graph, tmp_path, backend, change, words):
    verdict = verify_graph(edited(small_bundle, tmp_path / "wrong.onnx", change), backend)
    assert verdict.verdict == "failed" and any(word in verdict.reason for word in words)


def test_plain_export_fails_in_openvino(tmp_path):
    """Without the rewrites OpenVINO gives silently wrong depth at 640x480: our reason to fold the position embedding.

    There the embedding keeps its 37 rows but is sampled at a scale of 37.1 / 37; OpenVINO 2026.4 does not resample
    that axis. ONNX Runtime does. When this passes, OpenVINO agrees with PyTorch.
    """
    import torch

    from cdm_export.reference_model.random_weights import calibrate_range, seeded_network
    from cdm_export.reference_model.reference import run_reference
    from cdm_export.runtimes.processing import preprocess
    from cdm_export.runtimes.sources import open_source

    variant = get_variant("cdm-vitt")
    contract = variant.contract("cdm-vitt", Size(640, 480), 518)
    source = open_source("synthetic:1", camera=Size(640, 480)).load(0)
    inputs = preprocess(source.frame, contract)
    network = seeded_network(variant, 0)
    calibrate_range(network, variant, "bgr", tuple(torch.from_numpy(tensor) for tensor in inputs.values()), 0)
    exportable = variant.exportable(network, "bgr").eval()
    frame, plain = tmp_path / "frame.npz", tmp_path / "plain.onnx"
    save_frame(frame, source, inputs)
    save_output(frame, frame, contract, run_reference(exportable, contract, inputs)["inverse_depth_refined"])
    export_onnx(exportable, contract, plain)

    def verdict(backend: str):
        frames = [ReferenceFrame("synthetic", frame)]
        return check_backend(backend, plain, contract, "fp32", frames, "PyTorch", Silent()).verdict

    wrong = verdict("openvino")
    assert wrong.verdict == "failed" and wrong.mean > 1e-4
    assert verdict("onnxruntime").verdict == "passed"


def test_inputs_changed_on_the_way_fail(small_bundle, references, tmp_path):
    """A device whose preprocessing differs is caught although its network is right."""
    contract = Bundle.open(small_bundle).manifest.contract
    arrays = load_reference(references[0].path)
    arrays["rgb"] = arrays["rgb"][..., ::-1]  # somebody swapped the channels
    changed = tmp_path / "changed.npz"
    np.savez(changed, **arrays)
    frames = [ReferenceFrame("changed", changed)]
    graph = small_bundle / "onnx" / "fp32.onnx"
    verdict = check_backend("onnxruntime", graph, contract, "fp32", frames, "golden", Silent()).verdict
    assert verdict.verdict == "failed" and "network inputs differ" in verdict.reason
