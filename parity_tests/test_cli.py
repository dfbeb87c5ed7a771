"""The command line as a user meets it: every refusal in words, with its exit code, and nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from parity_tests.conftest import cli, write_frame
from runtimes.contract import Size
from runtimes.frame import Frame

CAMERA = Size(160, 120)


@pytest.fixture
def pair(tmp_path, frame) -> tuple[Path, Path]:
    return write_frame(tmp_path / "in", "a", frame(CAMERA))


def refused(done, code: int, *words: str) -> None:
    """The exit code, an error in words, no traceback, nothing on standard output."""
    assert done.returncode == code, (done.returncode, done.stderr)
    text = " ".join(done.stderr.split())
    for word in words:
        assert word in text, text
    assert "Traceback" not in text and done.stdout == ""


def export(*arguments: object):
    return cli(
        "export",
        *arguments,
        "--camera",
        "160x120",
        "--input-size",
        70,
        "--frames",
        "synthetic:1",
        "--precision",
        "fp32",
    )


# --- run ------------------------------------------------------------------------------------------------------------


def test_run_one_frame_into_a_folder(small_bundle, pair, tmp_path):
    out = tmp_path / "out"
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.npy", "a.png", "a.view.png"]
    depth = np.load(out / "a.npy")
    millimetres = cv2.imread(str(out / "a.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.float32 and depth.shape == (120, 160)
    assert millimetres.dtype == np.uint16 and np.abs(millimetres / 1000 - depth).max() <= 0.0006
    picture = cv2.imread(str(out / "a.view.png"))
    assert picture.shape[0] > 2 * 120 and picture.shape[1] > 2 * 160
    assert "parity passed" in done.stdout and "fp32" in done.stdout
    assert "random weights" in done.stderr.lower()


@pytest.mark.parametrize("name", ["depth.npy", "depth.png"])
def test_run_writes_the_one_file_asked_for(small_bundle, pair, tmp_path, name):
    done = cli("run", small_bundle, "--rgb-image", pair[0], "--depth-image", pair[1], "-o", tmp_path / name, "-q")
    assert done.returncode == 0 and done.stdout == "" and done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "in"]


def test_run_a_folder_skips_the_broken_frame_and_says_so(small_bundle, frame, tmp_path):
    folder = tmp_path / "in"
    for stem in ("a", "b", "c"):
        write_frame(folder, stem, frame(CAMERA))
    (folder / "b.depth.png").write_bytes(b"broken")
    done = cli("run", small_bundle, "--input", folder, "-o", tmp_path / "out", "--json")
    assert done.returncode == 2
    assert "b" in json.loads(done.stdout)["skipped"]
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.npy")) == ["a", "c"]
    strict = cli("run", small_bundle, "--input", folder, "-o", tmp_path / "strict", "--strict", "-q")
    refused(strict, 2, "b: ")
    assert not (tmp_path / "strict" / "c.npy").exists()


def test_run_with_json(small_bundle, pair, tmp_path):
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "x.npy", "--json")
    document = json.loads(done.stdout)
    assert document["backend"]["precision"] == "fp32" and document["parity"]["verdict"] == "passed"
    (only,) = document["frames"]
    assert only["health"]["non_finite_share"] == 0 and only["timing_ms"]["inference"] > 0


def test_frames_of_another_size_are_refused_or_fitted(small_bundle, frame, tmp_path):
    color, depth = write_frame(tmp_path / "in", "a", frame(Size(200, 100)))
    done = cli("run", small_bundle, "--input", color, "--depth", depth, "-o", tmp_path / "x.npy", "-q")
    refused(done, 2, "200x100", "160x120", "--fit")
    assert not (tmp_path / "x.npy").exists()
    done = cli("run", small_bundle, "--input", color, "--depth", depth, "-o", tmp_path / "x.npy", "--fit", "-q")
    assert done.returncode == 0 and np.load(tmp_path / "x.npy").shape == (120, 160)


def test_suspicious_depth_scale_is_a_warning(small_bundle, pair, tmp_path):
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "x.npy",
               "--depth-scale", 100)  # fmt: skip
    assert done.returncode == 0 and "--depth-scale" in done.stderr and "median" in done.stderr


def test_millimetres_that_do_not_fit_16_bits(small_bundle, pair, tmp_path):
    """Far pixels are 0 in the PNG, and it says how many."""
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "o", "--far", 1e6)
    depth = np.load(tmp_path / "o" / "a.npy")
    image = cv2.imread(str(tmp_path / "o" / "a.png"), cv2.IMREAD_UNCHANGED)
    beyond = int((np.rint(depth.astype(np.float64) * 1000) > 65535).sum())
    assert (image[depth > 65.6] == 0).all()
    assert beyond == 0 or f"{beyond} pixel(s) beyond 65.535 m" in done.stderr


def save(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing colour", ("no such file",)),
        ("missing depth", ("no such file",)),
        ("not an image", ("cannot be read as an image",)),
        ("8-bit depth", ("8-bit",)),
        ("3-channel depth", ("3 channels",)),
        ("other size", ("differ in size",)),
        ("all zero", ("no pixel of the depth image has a reading",)),
        ("no depth", ("--depth",)),
    ],
)
def test_bad_images(small_bundle, pair, tmp_path, what, words):
    color, depth = pair
    good = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)
    if what == "missing colour":
        color = tmp_path / "in" / "nothing.png"
    elif what == "missing depth":
        depth = tmp_path / "in" / "nothing.png"
    elif what == "not an image":
        color.write_text("hello")
    elif what == "8-bit depth":
        save(depth, (good // 256).astype(np.uint8))
    elif what == "3-channel depth":
        save(depth, np.dstack([good] * 3))
    elif what == "other size":
        save(depth, good[:-2])
    elif what == "all zero":
        save(depth, good * 0)
    arguments = [] if what == "no depth" else ["--depth", depth]
    done = cli("run", small_bundle, "--input", color, *arguments, "-o", tmp_path / "x.npy", "-q")
    refused(done, 2, *words)
    assert not (tmp_path / "x.npy").exists()


def test_input_is_never_overwritten(small_bundle, pair, tmp_path):
    before = pair[0].read_bytes()
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", pair[0], "-q")
    refused(done, 2, "would write over the input")
    assert pair[0].read_bytes() == before


@pytest.mark.parametrize("where", ["beside single", "beside folder", "here"])
def test_a_folder_of_results_never_hides_an_input(small_bundle, frame, tmp_path, where):
    """Results are called STEM.png: so may be the input."""
    color, depth = write_frame(tmp_path / "layout", "a", frame(CAMERA))
    (tmp_path / "layout" / "rgb").mkdir()
    (tmp_path / "layout" / "depth").mkdir()
    color, depth = (
        color.rename(tmp_path / "layout" / "rgb" / "a.png"),
        depth.rename(tmp_path / "layout" / "depth" / "a.png"),
    )
    before = color.read_bytes(), depth.read_bytes()
    if where == "beside folder":
        done = cli("run", small_bundle, "--input", tmp_path / "layout", "-o", tmp_path / "layout" / "depth", "-q")
    else:
        out = color.parent if where == "beside single" else Path(os.path.relpath(color.parent))
        done = cli("run", small_bundle, "--input", color, "--depth", depth, "-o", out, "-q")
    refused(done, 2, "would write over the input")
    assert (color.read_bytes(), depth.read_bytes()) == before


def test_results_do_not_go_into_the_bundle(small_bundle, pair):
    for out in (small_bundle, small_bundle / "x.npy", small_bundle / "golden"):
        done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", out, "-q")
        refused(done, 2, "is inside the bundle")


def test_output_that_cannot_be_written(small_bundle, pair, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "x.npy", tmp_path / "file", "/proc/x.npy"):
        done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", out, "-q")
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--backend", "onxruntime"), 2, ("unknown backend 'onxruntime'", "Did you mean 'onnxruntime'")),
        (("--backend", "onnxruntime-cuda"), 3, ("CUDAExecutionProvider", "pip install")),
        (("--precision", "fp16"), 2, ("no fp16 artefact", "fp32")),
        (("--far", "0"), 2, ("far must be above 0",)),
        (("--threads", "-1"), 2, ("--threads",)),
        (("--threads", "100000"), 2, ("usable processor",)),
        (("--no-such-flag",), 2, ("--no-such-flag",)),
    ],
)
def test_run_refusals(small_bundle, pair, tmp_path, arguments, code, words):
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "x.npy", "-q", *arguments)
    refused(done, code, *words)
    assert not (tmp_path / "x.npy").exists()


# --- export ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.pt", "--model", "cdm-vits"), ("nothing.pt: no such file",)),
        (("--random-weights", "1", "--model", "cdm-vitz"), ("unknown model 'cdm-vitz'", "Did you mean 'cdm-vit")),
        (("--random-weights", "1"), ("needs --model",)),
        ((), ("give either a checkpoint or --random-weights",)),
        (("x.pt", "--random-weights", "1", "--model", "cdm-vits"), ("give either",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--precision", "fp7"), ("'fp7' cannot be exported",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--target", "tflite"), ("'tflite' cannot be exported",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--far", "-2"), ("--far must be",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--frames", "nowhere"), ("nowhere",)),
    ],
)
def test_export_refusals(tmp_path, arguments, words):
    given = cli(
        "export",
        "--camera",
        "160x120",
        "--input-size",
        70,
        "--precision",
        "fp32",
        *arguments,
        "-o",
        tmp_path / "x.bundle",
        "-q",
    )
    refused(given, 2, *words)
    assert list(tmp_path.iterdir()) == []


def test_camera_that_is_no_size(tmp_path):
    done = cli("export", "--random-weights", 1, "--model", "cdm-vits", "--camera", "640", "-o", tmp_path / "x", "-q")
    refused(done, 2, "'640' is not an image size", "640x480")


def test_checkpoints_that_cannot_be_used(small_bundle, tmp_path):
    import torch

    from reference_model.random_weights import rebuild
    from reference_model.registry import get_variant
    from runtimes.bundle import Bundle

    state = rebuild(get_variant("cdm-vits"), Bundle.open(small_bundle).manifest.provenance.random_weights).state_dict()
    path = tmp_path / "camera.pt"
    out = tmp_path / "x.bundle"

    torch.save({"model": state}, path)
    refused(export(path, "--model", "cdm-vitl", "-o", out, "-q"), 2, "cdm-vits", "cdm-vitl")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(export(path, "--model", "cdm-vits", "-o", out, "-q"), 2, "camera.pt")
    missing = dict(list(state.items())[:-1])
    torch.save(missing, path)
    refused(export(path, "-o", out, "-q"), 2, list(state)[-1])
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    torch.save({"state_dict": state, "callback": Payload()}, path)
    refused(export(path, "-o", out, "-q"), 2, "carries code", "system", "Nothing of it was run")
    assert not marker.exists()
    import argparse

    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1.0), "path": tmp_path}, path)
    done = export(path, "-o", out)
    assert done.returncode == 0, done.stderr  # foreign, but no code: left out and listed
    assert "argparse.Namespace" in done.stderr and "pathlib" in done.stderr
    shutil.rmtree(out)
    path.write_bytes(b"<!DOCTYPE html><html>sign in</html>")
    refused(export(path, "-o", out, "-q"), 2, "camera.pt")
    assert not out.exists()


def test_bundle_already_there(small_bundle, tmp_path):
    copy = tmp_path / "there.bundle"
    shutil.copytree(small_bundle, copy)
    arguments = ("--random-weights", 2, "--model", "cdm-vits", "-o", copy, "-q")
    refused(export(*arguments), 2, "already exists", "--overwrite")
    before = (copy / "manifest.json").read_text()
    done = export(*arguments, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert (copy / "manifest.json").read_text() != before
    (tmp_path / "photos").mkdir()
    refused(export("--random-weights", 2, "--model", "cdm-vits", "-o", tmp_path / "photos", "--overwrite", "-q"), 2,
            "is not a bundle")  # fmt: skip


def test_output_in_a_folder_that_is_not_there(tmp_path):
    done = export("--random-weights", 2, "--model", "cdm-vits", "-o", tmp_path / "no" / "x.bundle", "-q")
    refused(done, 2, "does not exist", "mkdir -p")


# --- verify, inspect, models, doctor ---------------------------------------------------------------------------------


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
    # A processor without BF16 skips that one; nothing else is left out.
    assert set(ran) | skipped == {
        ("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime-cuda", "fp32"),
        ("onnxruntime-tensorrt", "fp32"),
    }  # fmt: skip
    assert "CUDA" in document["skipped"]["onnxruntime-cuda fp32"]
    passed = {pair: one["latency"]["p50"] for pair, one in ran.items() if one["verdict"]["verdict"] == "passed"}
    backend, precision = min(passed, key=lambda pair: passed[pair])
    run = cli("run", copy, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "x.npy")
    assert run.stdout.startswith(f"{backend} {precision}, parity passed") and "on this machine" in run.stdout
    assert "on this machine" in cli("inspect", copy).stdout


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

    from runtimes.hashing import sha256_of

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


def test_verify_of_changed_artefact(copy):
    graph = copy / "onnx" / "fp32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    refused(cli("verify", copy, "-q"), 2, "was changed since it was published", "Copy the bundle again")


def test_verify_fails_when_the_golden_frames_disagree(copy):
    """Hashes made to fit: the figures still give it away."""
    from runtimes.hashing import sha256_of

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


def test_not_a_bundle(tmp_path):
    for command in ("inspect", "verify"):
        refused(cli(command, tmp_path / "nothing"), 2, "no such folder", "cdm-export export")
        refused(cli(command, tmp_path), 2, "not a bundle")


def test_inspect(small_bundle):
    text = cli("inspect", small_bundle).stdout
    for word in ("cdm-vits", "160x120", "98x70", "random weights", "opset 18", "position_embedding (2)", "passed"):
        assert word in text
    document = json.loads(cli("inspect", small_bundle, "--full", "--json").stdout)
    assert document["manifest"]["artefacts"][0]["rewrites"]["explicit_attention"]["modules"] == 24


def test_models():
    rows = {row["model"]: row for row in json.loads(cli("models", "--json").stdout)}
    assert {"cdm-vits", "cdm-vitb", "cdm-vitl", "cdm-vitg"} <= set(rows)
    assert "CC-BY-NC" in rows["cdm-vitl"]["weights"]
    assert "cdm-vitg" in cli("models").stdout


def test_doctor():
    findings = {finding["subject"]: finding for finding in json.loads(cli("doctor", "--json").stdout)}
    assert findings["backend onnxruntime"]["status"] == "ok"
    assert all(finding["status"] in ("ok", "missing", "problem") for finding in findings.values())
    assert all(finding["command"] for finding in findings.values() if finding["subject"].startswith("backend")
               and finding["status"] != "ok")  # fmt: skip
    assert cli("doctor").returncode == 0


def test_unknown_command_and_version():
    done = cli("exprot")
    assert done.returncode == 2 and "export" in done.stderr
    assert cli("--version").stdout.startswith("cdm-export 0.")
    assert cli().returncode in (0, 2)


def test_errors_with_json_are_json(tmp_path):
    done = cli("inspect", tmp_path, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 2 and "not a bundle" in document["error"]
    assert "cdm-export export" in document["next_step"]


def test_frame_in_python_with_no_reading_is_no_error(small_bundle):
    import cdm_export

    with cdm_export.open(small_bundle, backend="onnxruntime") as refine:
        result = refine(Frame(np.zeros((120, 160, 3), np.uint8), np.zeros((120, 160), np.float32)))
    assert result.health.sensor_share == 0


def test_demo(tmp_path):
    """The shipped model on a real frame; it says what it is, in words and in the picture."""
    done = cli("demo", "-o", tmp_path / "demo", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and {verdict["verdict"] for verdict in document["parity"]} == {"passed"}
    assert document["warning"].startswith("DEMONSTRATION MODEL")
    sensor_holes_filled = document["frame"]["health"]["valid_share"] - document["frame"]["health"]["sensor_share"]
    assert sensor_holes_filled > 0.1
    near, _, far = document["frame"]["depth_p1_p50_p99"]
    assert 1.5 < near < far < 6, "the scene is 2.1 to 5.1 m deep"
    assert cv2.imread(str(tmp_path / "demo" / "motorcycle.view.png")).shape[1] > 2 * 741
    (tmp_path / "file").touch()
    refused(cli("demo", "-o", tmp_path / "file", "-q"), 2, "a file of an unknown kind")
