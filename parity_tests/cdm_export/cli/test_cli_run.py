"""``run`` as a user meets it: what it writes, what it warns of, and every refusal in words."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cdm_export.runtimes.contract import Size
from parity_tests.conftest import CAMERA, cli, refused, write_frame
from parity_tests.old_bundle import OLD


def test_run_one_frame_into_a_folder(small_bundle, pair, tmp_path):
    out = tmp_path / "out"
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.npy", "a.png", "a.view.png"]
    depth = np.load(out / "a.npy")
    millimeters = cv2.imread(str(out / "a.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.float32 and depth.shape == (120, 160)
    assert millimeters.dtype == np.uint16 and np.abs(millimeters / 1000 - depth).max() <= 0.0006
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


def test_a_pair_for_a_model_of_one_image(small_bundle, frame, tmp_path):
    """Parts of a pair that somebody names are refused; those that lie in a folder are left out, which is said once."""
    folder = tmp_path / "in"
    for stem in ("a", "b"):
        color, depth = write_frame(folder, stem, frame(CAMERA))
        (folder / f"{stem}.right.png").write_bytes(color.read_bytes())
    (folder / "calib.txt").write_text("cam0=[1 0\n")
    for option in ("--right", "--calib"):
        given = (option, folder / "a.right.png")
        done = cli("run", small_bundle, "--left", color, "--depth", depth, *given, "-o", tmp_path / "x", "-q")
        refused(done, 2, f"reads one image: {option}, for stereo models, has no meaning")
    done = cli("run", small_bundle, "--input", folder, "-o", tmp_path / "out")
    said = " ".join(done.stderr.split())
    assert done.returncode == 0 and "the right images of 2 pair(s): the model reads one image" in said
    assert said.count("calibration left out: calib.txt: width is missing") == 1


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


def test_millimeters_that_do_not_fit_16_bits(small_bundle, pair, tmp_path):
    """Far pixels are 0 in the PNG, and it says how many."""
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "o", "--far", 1e5)
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
        ("missing color", ("no such file",)),
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
    if what == "missing color":
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
        (("--precision", "fp16"), 2, ("no fp16 artifact", "fp32")),
        (("--far", "0"), 2, ("far must be above 0",)),
        (("--threads", "-1"), 2, ("--threads",)),
        (("--threads", "100000"), 2, ("usable CPU",)),
        (("--no-such-flag",), 2, ("--no-such-flag",)),
    ],
)
def test_run_refusals(small_bundle, pair, tmp_path, arguments, code, words):
    done = cli("run", small_bundle, "--input", pair[0], "--depth", pair[1], "-o", tmp_path / "x.npy", "-q", *arguments)
    refused(done, code, *words)
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.exr", "x.npz"])
def test_no_folder_is_called_like_a_file(small_bundle, tmp_path, name):
    done = cli("run", small_bundle, "--input", "synthetic:1", "-o", tmp_path / name)
    refused(done, 2, "are not written as", "-o x")
    assert not list(tmp_path.iterdir())


def test_a_folder_run_says_each_frame_and_where_it_stopped(tmp_path):
    """One line as soon as a frame is done; Ctrl-C keeps what is written and says how much that is."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "cdm_export", "run", str(OLD), "--input", "synthetic:300", "-o", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert "parity passed" in process.stdout.readline()
    lines = [process.stdout.readline() for _ in range(4)]
    assert all("valid" in line and "out/" in line for line in lines), lines
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    (done, of) = re.findall(r"stopped after (\d+) of (\d+) frames", said)[0]
    written = len(list(out.glob("*.npy")))
    assert of == "300" and 4 <= int(done) == written == 4 + rest.count(" valid, ") < 300
