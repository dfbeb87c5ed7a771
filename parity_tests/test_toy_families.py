"""Two families of somebody else's: one package each, one line of metadata, nothing else; and everything works on them.

The packages lie on PYTHONPATH beside their metadata, as an installed distribution's do, so that child processes find
them as they would find any third party's.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cdm_export.runtimes import engines
from cdm_export.runtimes.bundle import Bundle, State
from parity_tests.conftest import cli, refused
from parity_tests.places import ROOT

TOYS = ROOT / "parity_tests" / "toy_families"
CAMERA = "96x60"


def distribution(folder: Path, **families: str) -> Path:
    """``toy-depth 1.0``, installed: both packages and their metadata."""
    for package in ("toy_cnn", "toy_stereo"):
        shutil.copytree(TOYS / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = folder / "toy_depth-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-depth\nVersion: 1.0\n")
    lines = families or {"toy_cnn": "toy_cnn:VARIANTS", "toy_stereo": "toy_stereo"}
    (metadata / "entry_points.txt").write_text(
        "[cdm_export.families]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Environment in which the toys are installed."""
    site = distribution(tmp_path_factory.mktemp("site"))
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, installed):
    """Both toys, exported from the command line."""
    folder = tmp_path_factory.mktemp("toys")
    common = ("--random-weights", 0, "--camera", CAMERA, "--frames", "synthetic:2", "--target", "onnx,coreml", "-q")
    int8 = ("--precision", "fp32,fp16,int8", "--calibration", "synthetic:3", "--keep-slower")
    for toy, options in (("toy-cnn", int8), ("toy-stereo", ("--precision", "fp32,fp16", "--coreml-input", "image"))):
        out = folder / f"{toy}.bundle"
        done = cli("export", "--model", toy, *common, *options, "-o", out, environment=installed)
        assert done.returncode == 0, done.stderr
    return folder


def test_models_lists_them_with_their_package(installed):
    rows = {row["model"]: row for row in json.loads(cli("models", "--json", environment=installed).stdout)}
    assert rows["toy-cnn"]["package"] == "toy-depth 1.0" and rows["cdm-vits"]["package"] == "cdm-export"
    assert "of toy-depth 1.0" in cli("models", environment=installed).stdout
    assert "toy-cnn" not in cli("models").stdout


@pytest.mark.parametrize("toy", ["toy-cnn", "toy-stereo"])
def test_what_was_exported(bundles, toy):
    precisions = {"fp32", "fp16"} | ({"int8", "int8-fp16"} if toy == "toy-cnn" else set())
    bundle = Bundle.open(bundles / f"{toy}.bundle", full=True)
    manifest = bundle.manifest
    assert manifest.provenance.package == "toy-depth 1.0"
    onnx = [one for one in manifest.artifacts if one.format == "onnx"]
    assert {one.precision for one in onnx} == precisions, "and no FP16 graph without attention for its own sake"
    coreml = {one.precision for one in manifest.artifacts if one.format == "coreml"}
    assert coreml == {"fp32", "fp16"} | ({"fp16-image"} if toy == "toy-stereo" else set())
    assert all(verdict.passed for one in manifest.artifacts for verdict in one.verdicts)
    assert {one.state for one in manifest.artifacts} <= {State.PUBLISHED, State.CANDIDATE, State.DROPPED}
    assert all(not rewrite.modules for one in onnx for rewrite in one.rewrites.values()), "no rule touches them"


def test_the_loud_layer_is_an_island_and_what_takes_it_back(bundles):
    manifest = Bundle.open(bundles / "toy-cnn.bundle").manifest
    plan = next(one.precision_plan for one in manifest.artifacts if one.name == "onnx/fp16")
    assert {island.module for island in plan.islands} == {"norm", "loud", "quiet"}
    assert manifest.contract.network == (96, 64) and manifest.contract.content == (96, 60), "padded to 32"


def test_run_in_meters_and_in_pixels(bundles, tmp_path, frame):
    from cdm_export.runtimes.contract import Size
    from cdm_export.runtimes.sources import open_source
    from parity_tests.frame_files import write

    done = cli("run", bundles / "toy-cnn.bundle", "--input", "synthetic:1", "-o", tmp_path / "cnn")
    assert done.returncode == 0, done.stderr
    (depth,) = (np.load(path) for path in (tmp_path / "cnn").glob("*.npy"))
    assert depth.shape == (60, 96) and (depth >= 1).all()
    pair = open_source("synthetic:1", camera=Size(96, 60), needs_depth=False, needs_right=True).load(0).frame
    left, right = write(tmp_path / "l.png", pair.rgb), write(tmp_path / "r.png", pair.right)
    stereo = bundles / "toy-stereo.bundle"
    refused(cli("run", stereo, "--input", left, "-o", tmp_path / "x"), 2, "reads a pair", "--right FILE")
    done = cli("run", stereo, "--input", left, "--right", right, "-o", tmp_path / "stereo", "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["frames"]
    assert one["unit"] == "px", "without a calibration pixels stay pixels"
    (disparity,) = (np.load(path) for path in (tmp_path / "stereo").glob("*.npy"))
    assert disparity.shape == (60, 96) and 0 < np.median(disparity) < 16


def test_a_device_needs_no_family(bundles, tmp_path):
    """What runs there has the bundle and nothing of toy-depth."""
    for toy in ("toy-cnn", "toy-stereo"):
        done = cli("verify", bundles / f"{toy}.bundle", "--backend", "onnxruntime", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["passed"], done.stderr
    done = cli("verify", bundles / "toy-cnn.bundle", "--frames", "synthetic:1", "--backend", "onnxruntime", "--json")
    assert done.returncode == 0 and "fp32.onnx on ONNX Runtime" in json.loads(done.stdout)["reference"]
    done = cli("verify", bundles / "toy-cnn.bundle", "--bisect", "--backend", "torch", "--precision", "fp16")
    refused(done, 2, "is part of toy-depth 1.0, which is not installed here", "pip install toy-depth")


@pytest.mark.parametrize(
    ("toy", "stages"),
    [("toy-cnn", {"stem", "deep", "loud", "quiet", "up", "head"}), ("toy-stereo", {"costs", "refine"})],
)
def test_bisect_looks_at_its_modules(bundles, installed, toy, stages):
    done = cli(
        "verify", bundles / f"{toy}.bundle", "--bisect", "--backend", "onnxruntime", "--precision", "fp16", "--json",
        environment=installed,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = {stage["name"] for stage in json.loads(done.stdout)["stages"]}
    assert stages <= seen


def test_bench(bundles):
    done = cli("bench", bundles / "toy-stereo.bundle", "--frames", 3, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and {entry["backend"] for entry in result["entries"]} == {"openvino", "onnxruntime"}


@pytest.mark.parametrize("toy", ["toy-cnn", "toy-stereo"])
def test_an_engine_of_it(bundles, toy, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    bundle = Path(shutil.copytree(bundles / f"{toy}.bundle", tmp_path / "toy.bundle"))
    done = cli("build", bundle, "--target", "tensorrt-rtx", "--precision", "fp16", "--json")
    assert done.returncode == 0, done.stderr
    (engine,) = engines.scan(Bundle.open(bundle))
    outcomes = {check.name: check.outcome for check in engine.record.layer_report.checks}
    assert set(outcomes.values()) == {"passed"} and not any("attention" in name for name in outcomes)


def test_a_broken_or_colliding_family_is_said_and_harms_nobody(tmp_path):
    site = distribution(tmp_path / "site", broken="toy_cnn:NOTHING", taken="taken", good="toy_stereo:VARIANTS")
    (site / "taken.py").write_text(
        "from dataclasses import replace\nfrom toy_cnn import VARIANTS\n"
        "VARIANTS = (replace(VARIANTS[0], name='cdm-vits'),)\n"
    )
    here = {"PYTHONPATH": str(site)}
    done = cli("models", environment=here)
    assert done.returncode == 0 and "toy-stereo" in done.stdout
    assert "the families of toy-depth 1.0 cannot be used: AttributeError" in done.stderr
    assert "has a model called cdm-vits, as cdm-export has" in done.stderr


def test_nothing_of_a_third_party_is_imported_to_run(bundles, installed, tmp_path):
    """A bundle names a model; opening, running and verifying it imports nobody's package."""
    code = (
        "import sys, cdm_export\n"
        f"cdm_export.open({str(bundles / 'toy-cnn.bundle')!r}, backend='onnxruntime').close()\n"
        "assert not [name for name in sys.modules if name.startswith('toy_')]\n"
    )
    environment = {**os.environ, **installed}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
