"""The command line as a user meets it: the small commands, errors with their exit codes, the demo."""

import json

import cv2
import numpy as np
import pytest

from cdm_export.runtimes.frame import Frame
from parity_tests.conftest import cli, refused


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
    results = {finding["subject"]: finding for finding in json.loads(cli("doctor", "--json").stdout)}
    assert results["backend onnxruntime"]["status"] == "ok"
    assert all(finding["status"] in ("ok", "missing", "problem") for finding in results.values())
    assert all(finding["command"] for finding in results.values() if finding["subject"].startswith("backend")
               and finding["status"] != "ok")  # fmt: skip
    assert cli("doctor").returncode == 0


def test_into_a_pipe_a_table_is_one_line_per_row(small_bundle):
    models = cli("models").stdout.splitlines()
    families = {row["family"] for row in json.loads(cli("models", "--json").stdout)}
    assert len(models) == 1 + len(families) + len(json.loads(cli("models", "--json").stdout))
    headings = ["cdm", "depth-anything", "midas", "bdedepth", "nndepth", "raft-stereo", "crestereo", "igev"]
    assert [line for line in models if line in families] == headings, "grouped, a heading each"
    findings = json.loads(cli("doctor", "--json").stdout)
    doctor = cli("doctor").stdout.splitlines()
    assert [line.startswith(finding["subject"]) for line, finding in zip(doctor, findings, strict=True)]
    assert all(finding["command"] in line for line, finding in zip(doctor, findings, strict=True))
    inspected = cli("inspect", small_bundle).stdout.splitlines()
    assert len([line for line in inspected if line.startswith(("bundle ", "integrity ", "camera ", "output "))]) == 4
    assert not any(line != line.rstrip() for line in (*models, *doctor, *inspected[:11]))


@pytest.mark.parametrize("features", [set(), {"avx512_bf16"}])
def test_doctor_does_not_contradict_itself(monkeypatch, features):
    from cdm_export.doctor import machine

    monkeypatch.setattr(machine, "cpu_features", lambda: features)
    found = {finding.subject: finding.detail for finding in machine.examine()}
    lacks = "BF16" in found[machine.REDUCED_PRECISION].split(":")[0].split("instructions for")[1]
    if not features:
        assert lacks
    assert ("bf16" in found["backend openvino"]) is bool(features)


def test_unknown_command_and_version():
    refused(cli("exprot"), 2, "there is no command 'exprot'. Did you mean 'export'?")
    assert cli("--version").stdout.startswith("cdm-export 0.")
    bare = cli()
    assert bare.returncode == 2 and "Usage" in bare.stdout and "verify" in bare.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--json"), "Missing argument"),
        (("export", "--json", "--no-such-option"), "No such option"),
        (("exprot", "--json"), "Did you mean 'export'"),
        (("verify", "b", "--threads", "many", "--json"), "--threads"),
    ],
)
def test_usage_errors_with_json_are_json(arguments, said):
    done = cli(*arguments)
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 2 and said in document["error"], document


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
