"""A whole bundle of relative depth from a checkpoint: every command, without a unit until somebody gives one."""

import importlib.util
import json
import shutil

import cv2
import numpy as np
import pytest
import torch

import cdm_export
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes import engines
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import Semantics, Size
from cdm_export.runtimes.sources import open_source
from parity_tests.conftest import CAMERA, cli, write_frame

MODEL, METRIC = "depth-anything-v2-vits", "depth-anything-v2-metric-indoor-vits"


COREML = importlib.util.find_spec("coremltools") is not None
TARGETS = "onnx,coreml" if COREML else "onnx"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of a seeded, calibrated network under its published name."""
    from cdm_export.reference_model.random_weights import calibrate_range, seeded_network
    from cdm_export.runtimes.processing import preprocess

    variant = get_variant(MODEL)
    frame = open_source("sample", camera=CAMERA).load(0).frame
    image = preprocess(frame, variant.contract(MODEL, CAMERA, 70))["image"]
    network = seeded_network(variant, 1)
    calibrate_range(network, variant, "rgb", (torch.from_numpy(image),), 1)
    path = tmp_path_factory.mktemp("weights") / "depth_anything_v2_vits.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def bundle(weights, tmp_path_factory):
    """From a checkpoint, ONNX and Core ML in FP32 and FP16, on color images without depth."""
    folder = tmp_path_factory.mktemp("relative")
    images = folder / "images"
    images.mkdir()
    rgb = open_source("sample", camera=CAMERA).load(0).frame.rgb
    cv2.imwrite(str(images / "motorcycle.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    done = cli("export", weights, "--model", MODEL, "--camera", CAMERA, "--input-size", 70, "--frames", images,
               "--target", TARGETS, "-o", folder / "relative.bundle", "--json", "-q")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "relative.bundle"


@pytest.fixture
def image(bundle):
    return bundle.parent / "images" / "motorcycle.png"


def test_everything_passed_and_the_manifest_says_what_weights_cannot(bundle, weights):
    manifest = Bundle.open(bundle, full=True).manifest
    made = ["onnx/fp32", "onnx/fp16", "onnx/fp16-attn32", *(["coreml/fp32", "coreml/fp16"] if COREML else [])]
    assert [artifact.name for artifact in manifest.artifacts] == made
    for artifact in manifest.artifacts:
        assert artifact.verdicts and all(verdict.verdict == "passed" for verdict in artifact.verdicts)
        assert all(verdict.mean_mm is None for verdict in artifact.verdicts)
    fp32 = {verdict.backend: verdict for verdict in manifest.artifacts[0].verdicts}
    assert set(fp32) == {"openvino", "onnxruntime"} and all(each.mean <= 5e-6 for each in fp32.values())
    assert manifest.contract.model == MODEL and manifest.contract.semantics is Semantics.RELATIVE_INVERSE_DEPTH
    assert manifest.provenance.checkpoint == weights.name and manifest.provenance.license == "Apache-2.0"
    rewrites = manifest.artifacts[0].rewrites
    assert not {"two_token_attention", "depth_channel_sum"} & set(rewrites), "CDM's own"
    assert not any(rewrite.skipped for rewrite in rewrites.values())
    half = manifest.artifacts[1].graph
    assert half is not None and half.nodes["Conv"]["FLOAT"] == 1, "the last convolution"
    assert set(half.nodes["MatMul"]) == {"FLOAT16"} and set(half.nodes["LayerNormalization"]) == {"FLOAT"}


def test_raw_values_are_pytorchs_and_never_called_meters(bundle, weights, image, tmp_path):
    done = cli("run", bundle, "--input", image, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    (frame,) = json.loads(done.stdout)["frames"]
    assert frame["unit"] == "" and "relative_inverse_depth_p1_p50_p99" in frame and "depth_p1_p50_p99" not in frame
    values = np.load(tmp_path / "out" / "motorcycle.npy")
    network = get_variant(MODEL).build().eval()
    network.load_state_dict(torch.load(weights))
    with np.load(bundle / "golden" / "000.npz") as golden, torch.inference_mode():
        raw = get_variant(MODEL).exportable(network, "rgb").eval()(torch.from_numpy(golden["image"]))
        assert "raw_depth" not in golden.files
    expected = torch.nn.functional.interpolate(raw, (120, 160), mode="bilinear", align_corners=True)[0, 0].numpy()
    assert np.abs(values - expected).max() <= 1e-4 * np.ptp(expected)
    stretched = cv2.imread(str(tmp_path / "out" / "motorcycle.png"), cv2.IMREAD_UNCHANGED)
    assert stretched.dtype == np.uint16 and stretched.min() == 0 and stretched.max() == 65535
    assert np.abs(stretched / 65535 * np.ptp(values) + values.min() - values).max() <= np.ptp(values) / 65535
    assert any("without a unit" in warning for warning in frame["warnings"])
    assert cv2.imread(str(tmp_path / "out" / "motorcycle.view.png")).shape[1] > 2 * 160


def test_meters_by_range_and_by_sensor(bundle, image, tmp_path):
    known = cli("run", bundle, "--input", image, "-o", tmp_path / "known.npy", "--meters", "0.5:8", "--colors", "gray")
    assert known.returncode == 0 and "0.5 to 8 m" in known.stdout, known.stderr
    depth = np.load(tmp_path / "known.npy")
    assert depth.min() == pytest.approx(0.5, rel=1e-4) and depth.max() == pytest.approx(8, rel=1e-4)
    # A sensor that sees the same scene, twice as far away and only its left half.
    sensor = (2 * depth).clip(max=6.4)
    sensor[:, 80:] = 0
    cv2.imwrite(str(tmp_path / "d.png"), np.rint(1000 * sensor).astype(np.uint16))
    aligned = cli("run", bundle, "--input", image, "--depth", tmp_path / "d.png", "-o", tmp_path / "out",
                  "--meters", "sensor", "--json")  # fmt: skip
    assert aligned.returncode == 0, aligned.stderr
    (frame,) = json.loads(aligned.stdout)["frames"]
    assert "aligned to the sensor" in frame["scaled"] and frame["unit"] == "m" and "depth_p1_p50_p99" in frame
    got = np.load(tmp_path / "out" / "motorcycle.npy")
    assert np.abs(got / (2 * depth) - 1).max() < 0.01
    millimeters = cv2.imread(str(tmp_path / "out" / "motorcycle.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(millimeters / 1000 - got).max() <= 0.0006


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--meters", "sensor"), "no depth image"),
        (("--meters", "5"), "NEAR:FAR"),
        (("--meters", "near:far"), "NEAR:FAR"),
        (("--meters", "8:0.5"), "from near to far"),
        (("--colors", "infern"), "Did you mean 'inferno'"),
        (("--depth", "{image}"), "--meters sensor"),
    ],
)
def test_run_refusals(bundle, image, tmp_path, options, words):
    given = [option.replace("{image}", str(image)) for option in options]
    done = cli("run", bundle, "--input", image, "-o", tmp_path / "x.npy", "-q", *given)
    assert done.returncode == 2 and words in " ".join(done.stderr.split()), done.stderr
    assert not list(tmp_path.iterdir())


def test_folders_of_images_portrait_ones_and_pairs(bundle, image, frame, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(image, folder / "landscape.png")
    cv2.imwrite(str(folder / "portrait.jpg"), np.rot90(cv2.imread(str(image))))
    done = cli("run", bundle, "--input", folder, "-o", tmp_path / "out", "--json")
    assert done.returncode == 2 and "120x160" in json.loads(done.stdout)["skipped"]["portrait"]
    assert (tmp_path / "out" / "landscape.npy").exists()
    fitted = cli("run", bundle, "--input", folder, "-o", tmp_path / "fitted", "--fit", "-q")
    assert fitted.returncode == 0 and np.load(tmp_path / "fitted" / "portrait.npy").shape == (120, 160)
    write_frame(tmp_path / "pairs", "a", frame(CAMERA))
    pairs = open_source(str(tmp_path / "pairs"), needs_depth=False)
    assert pairs.names == ("a",) and pairs.load(0).frame.depth is not None
    (tmp_path / "pairs" / "a.depth.png").unlink()
    alone = open_source(str(tmp_path / "pairs"), needs_depth=False)
    assert alone.names == ("a",) and alone.load(0).frame.depth is None


def test_color_alone_is_turned_upright_and_beside_depth_it_is_not(image, tmp_path):
    """A phone's portrait picture is stored lying, with a note to turn it; a depth image has no such note."""
    from cdm_export.runtimes.sources import load_pair

    lying = cv2.imread(str(image))
    jpeg = cv2.imencode(".jpg", lying)[1].tobytes()
    # TIFF header, one entry: orientation (0x0112), a short, once, 6: turn a quarter to the right.
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    tagged = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    (tmp_path / "phone.jpg").write_bytes(tagged)
    np.save(tmp_path / "d.npy", np.ones(lying.shape[:2], np.float32))
    assert load_pair("a", tmp_path / "phone.jpg", None, 1000).frame.size == Size(120, 160)
    assert load_pair("a", tmp_path / "phone.jpg", tmp_path / "d.npy", 1000).frame.size == Size(160, 120)


def test_every_other_command_works_on_it(bundle, weights):
    verified = cli("verify", bundle, "--checkpoint", weights, "--frames", "synthetic:1", "--json")
    report = json.loads(verified.stdout)
    assert verified.returncode == 0 and report["passed"] and report["reference"] == "eager float32 PyTorch"
    assert {("openvino", "fp32"), ("onnxruntime", "fp16")} <= {
        (one["backend"], one["precision"]) for one in report["parity"]
    }
    interpreted = {("coreml-reference", "fp32"), ("coreml-reference", "fp16")} if COREML else set()
    assert interpreted <= {(one["backend"], one["precision"]) for one in report["parity"]}
    looked = cli("verify", bundle, "--bisect", "--checkpoint", weights, "--against", "torch:fp32", "--json")
    stages = json.loads(looked.stdout)
    assert looked.returncode == 0 and stages["verdict"] == "inside"
    assert {stage["section"] for stage in stages["stages"]} == {"encoder", "decoder"} and len(stages["stages"]) > 20
    measured = cli("bench", bundle, "--precision", "fp32", "--frames", 5, "--json")
    assert measured.returncode == 0, measured.stderr
    page = bundle.parent / "report.html"
    assert cli("report", bundle, "-o", page).returncode == 0
    text = page.read_text()
    assert "of the output&#39;s range mean error" in text and "mean error, share of the range" in text
    assert " mm mean error" not in text and "mean error, mm" not in text
    shown = cli("inspect", bundle)
    for words in (MODEL, "relative_inverse_depth in no unit", "not read", "no meters", "last sums"):
        assert words in shown.stdout, words
    listed = cli("models")
    assert MODEL in listed.stdout and "80 m" in " ".join(listed.stdout.split())


def test_engine_of_it(bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    copied = tmp_path / "relative.bundle"
    shutil.copytree(bundle, copied)
    built = cli("build", copied, "--target", "tensorrt-rtx", "-q")
    assert built.returncode == 0, built.stderr
    (engine,) = engines.scan(Bundle.open(copied))
    assert engine.record.layer_report.fused_attention == 12
    assert engine.record.layer_report.float32_products == ("depth_head.scratch.output_conv2.2",)
    assert {check.outcome for check in engine.record.layer_report.checks} == {"passed"}


def test_metric_model_in_meters(tmp_path, frame):
    out = tmp_path / "metric.bundle"
    done = cli("export", "--random-weights", 1, "--model", METRIC, "--camera", CAMERA, "--input-size", 70,
               "--frames", "synthetic:1", "--precision", "fp32", "-o", out, "-q")  # fmt: skip
    assert done.returncode == 0, done.stderr
    contract = Bundle.open(out).manifest.contract
    assert contract.semantics is Semantics.METRIC_DEPTH and contract.far == 20 and not contract.reads("depth")
    picture = frame(CAMERA)
    with cdm_export.open(out) as predict:
        result = predict(cdm_export.Frame(picture.rgb))
    assert result.unit == "m" and result.valid.mean() > 0.9 and 0.2 < np.median(result.depth_m) < 10
    color, depth = write_frame(tmp_path / "in", "a", picture)
    ran = cli("run", out, "--input", color, "--depth", depth, "-o", tmp_path / "out")
    assert ran.returncode == 0 and "mm)" in ran.stdout, ran.stderr
    assert np.allclose(np.load(tmp_path / "out" / "a.npy"), result.depth_m, rtol=1e-3)
    refused = cli("run", out, "--input", color, "-o", tmp_path / "x.npy", "--meters", "0.5:8", "-q")
    assert refused.returncode == 2 and "gives meters already" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["depth-anything-v2-vitb", "depth-anything-v2-vitl", "depth-anything-v2-metric-outdoor-vitb"]
)
def test_large_models(model, tmp_path):
    out = tmp_path / "large.bundle"
    done = cli("export", "--random-weights", 0, "--model", model, "--camera", "640x480", "-o", out, "-q", timeout=3600)
    assert done.returncode == 0, done.stderr
    for artifact in Bundle.open(out).manifest.artifacts:
        assert artifact.verdicts and all(verdict.verdict == "passed" for verdict in artifact.verdicts)
