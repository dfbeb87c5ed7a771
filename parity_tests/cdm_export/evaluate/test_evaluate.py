"""``evaluate``: a bundle whose depth is known against a truth that is known, and the command around it."""

import csv
import json

import numpy as np
import pytest

from cdm_export.evaluate import evaluate as evaluation
from cdm_export.evaluate.evaluate import EvaluateRequest, evaluate
from cdm_export.progress import Silent
from cdm_export.runtimes.errors import BackendUnavailable, InputError
from parity_tests.conftest import cli, refused
from parity_tests.engine_bundle import SIDE
from parity_tests.frame_files import write
from parity_tests.tiny_bundle import make_tiny

ANSWER = 3
"""Meters, of the bundle everywhere."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("evaluate") / "three.bundle", ANSWER)


def frames(folder, truths, side=SIDE):
    for stem, meters in truths.items():
        write(folder / f"{stem}.color.png", np.zeros((side, side, 3), np.uint8))
        write(folder / f"{stem}.depth.png", np.full((side, side), 2000, np.uint16))
        np.save(folder / f"{stem}.truth.npy", np.full((side, side), meters, np.float32))
    return folder


def result_of(bundle, folder, **rest):
    return evaluate(EvaluateRequest(str(bundle), f"folder:{folder}", backend="onnxruntime", **rest), Silent())


def test_what_a_known_answer_costs(bundle, tmp_path):
    found = result_of(bundle, frames(tmp_path, {"a": 2.0, "b": 4.0}))
    (entry,) = found.entries
    row = entry.regions["all"]
    assert entry.name == "onnxruntime fp32" and found.complete and found.alignment == "none"
    assert row["abs_rel"].value == pytest.approx((0.5 + 0.25) / 2, rel=1e-6)
    assert row["rmse"].value == pytest.approx(1, rel=1e-6)
    assert entry.images["b"]["all"]["abs_rel"] == pytest.approx(0.25, rel=1e-6)
    assert entry.regions["readings"] == row and "holes" not in entry.regions


def test_another_alignment_and_a_limit(bundle, tmp_path):
    found = result_of(bundle, frames(tmp_path, {"a": 2.0, "b": 4.0}), align="median", limit=1)
    (entry,) = found.entries
    assert list(entry.images) == ["a"] and found.alignment == "median"
    assert entry.regions["all"]["abs_rel"].value < 1e-6


def test_every_backend_against_the_first(bundle, tmp_path):
    found = evaluate(EvaluateRequest(str(bundle), f"folder:{frames(tmp_path, {'a': 2.0})}"), Silent())
    first, *others = found.entries
    assert found.compared_with == first.name and first.differences == {} and others
    assert all(abs(one.differences["all"]["abs_rel"].value) < 1e-5 for one in others)
    assert "torch fp32" in found.skipped  # the weights it was made from are not here


def test_a_bad_image_is_named_and_in_no_mean(bundle, tmp_path):
    frames(tmp_path, {"a": 2.0, "b": 4.0})
    np.save(tmp_path / "b.truth.npy", np.zeros((SIDE, SIDE), np.float32))
    found = result_of(bundle, tmp_path)
    assert "no pixel above 0" in found.entries[0].failed["b"] and not found.complete
    assert found.entries[0].regions["all"]["abs_rel"].value == pytest.approx(0.5, rel=1e-6)


def test_images_of_another_size(bundle, tmp_path):
    """The size of this bundle's network is the camera's: another camera is another network."""
    frames(tmp_path, {"a": 2.0}, side=2 * SIDE)
    with pytest.raises(InputError, match="the network for it is 128x128, this bundle's is 64x64"):
        result_of(bundle, tmp_path)
    found = result_of(bundle, tmp_path, fit=True)
    assert found.entries[0].regions["all"]["abs_rel"].value == pytest.approx(0.5, rel=1e-6)
    assert found.entries[0].images["a"]["all"]["pixels"] == (2 * SIDE) ** 2
    assert any("resized" in note for note in found.notes)


def test_interrupted(bundle, tmp_path, monkeypatch):
    frames(tmp_path, {"a": 2.0, "b": 4.0, "c": 5.0})
    judged = []

    def judge(*given):
        judged.append(given)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return real(*given)

    real = evaluation.judge
    monkeypatch.setattr(evaluation, "judge", judge)
    found = evaluate(EvaluateRequest(str(bundle), f"folder:{tmp_path}"), Silent())
    assert list(found.entries[0].images) == ["a", "b"] and not found.complete
    assert len(found.entries) == 1 and "interrupted before its turn" in found.skipped.values()

    progress = Silent()
    resumed = evaluate(EvaluateRequest(str(bundle), f"folder:{tmp_path}"), progress)
    assert len(judged) == 3 + 1 + 3 * (len(resumed.entries) - 1)  # c, and all of the others
    assert any("goes on after 2 image(s)" in note for note in progress.notes)
    again = evaluate(EvaluateRequest(str(bundle), f"folder:{tmp_path}"), Silent())
    assert again == resumed and len(judged) == 4 + 3 * (2 * len(resumed.entries) - 1)  # it ended: nothing is kept


@pytest.mark.parametrize("change", ["truth", "align"])
def test_another_question_is_not_resumed(bundle, tmp_path, monkeypatch, change):
    frames(tmp_path, {"a": 2.0, "b": 4.0})
    real, judged = evaluation.judge, []

    def judge(*given):
        judged.append(given)
        if len(judged) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(evaluation, "judge", judge)
    result_of(bundle, tmp_path)
    if change == "truth":
        frames(tmp_path, {"a": 6.0})
    result_of(bundle, tmp_path, align="scale" if change == "align" else None)
    assert len(judged) == 2 + 2


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ({"limit": 0}, "--limit"),
        ({"precision": "int8"}, "no int8"),
        ({"checkpoint": "nowhere.pt"}, "no such checkpoint"),
        ({"align": "scale_shift_inverse"}, "relative inverse depth"),
    ],
)
def test_refused(bundle, tmp_path, rest, said):
    frames(tmp_path, {"a": 2.0})
    request = EvaluateRequest(str(bundle), f"folder:{tmp_path}", **rest)
    with pytest.raises(InputError, match=said):
        evaluate(request, Silent())


def test_a_backend_that_is_not_here(bundle, tmp_path):
    frames(tmp_path, {"a": 2.0})
    with pytest.raises(BackendUnavailable, match="tensorrt"):
        evaluate(EvaluateRequest(str(bundle), f"folder:{tmp_path}", backend="tensorrt"), Silent())


@pytest.mark.parametrize("option", ["backend", "precision", "align", "checkpoint"])
def test_baselines_have_no_options(option):
    with pytest.raises(InputError, match=f"--{option} has no meaning"):
        evaluate(EvaluateRequest("nearest", "sample", **{option: "fp16"}), Silent())


def test_filling_holes_of_the_sample():
    """What it is worth to fill holes is worse than what the sensor read, and better than nothing."""
    found = evaluate(EvaluateRequest("nearest", "sample"), Silent())
    regions = found.entries[0].regions
    assert regions["readings"]["abs_rel"].value < regions["holes"]["abs_rel"].value < 0.1


def test_matching_the_sample():
    found = evaluate(EvaluateRequest("sgbm", "sample"), Silent())
    matched, filled = found.entries
    assert 0.6 < matched.regions["all"]["density"].value < 0.8 and matched.regions["all"]["epe"].value < 1.5
    assert filled.regions["all"]["density"].value == 1 and filled.regions["all"]["epe"].value < 4
    assert filled.differences == {}  # other pixels, another question


def test_the_command(bundle, tmp_path):
    frames(tmp_path / "in", {"a": 2.0, "b": 4.0})
    data = f"folder:{tmp_path / 'in'}"
    table = tmp_path / "images.csv"
    done = cli("evaluate", bundle, "--data", data, "--backend", "onnxruntime", "-o", table)
    assert done.returncode == 0, done.stderr
    assert "abs_rel" in done.stdout and "0.375" in done.stdout and "readings" in done.stdout
    rows = list(csv.DictReader(table.open()))
    assert {row["image"] for row in rows} == {"a", "b"} and float(rows[0]["abs_rel"]) == pytest.approx(0.5, rel=1e-6)
    done = cli("evaluate", bundle, "--data", data, "--json", "-q", "-o", tmp_path / "all.json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "all.json").read_text())


def test_refusals_of_the_command(bundle, tmp_path):
    refused(cli("evaluate", "nowhere.bundle", "--data", "sample"), 2, "neither a bundle nor a baseline", "sgbm")
    refused(cli("evaluate", bundle, "--data", "sample", "--align", "medium"), 2, "Did you mean 'median'")
    refused(cli("evaluate", bundle, "--data", "sample", "-o", tmp_path / "x.txt"), 2, ".json or .csv")
    refused(cli("evaluate", bundle, "--data", "kitti-stereo-2015-occ:."), 2, "reads one image")
