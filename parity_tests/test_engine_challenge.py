"""INT8 against half precision on a device that the test pretends to be: who wins, what is remembered."""

import json
import shutil

import pytest

from cdm_export import publish
from cdm_export.engine import build as module
from cdm_export.engine import challenge
from cdm_export.progress import Silent
from parity_tests.engine_bundle import make_bundle, pretend_gpu, self_test
from runtimes import engines
from runtimes.bundle import MANIFEST, Bundle, State
from runtimes.quantisation import SpeedComparison
from runtimes.selection import choose

pytest.importorskip("tensorrt_rtx_bindings")


@pytest.fixture
def bundle(tmp_path):
    """With a second half graph that stands for the INT8 one."""
    made = make_bundle(tmp_path / "tiny.bundle")
    half = next(one for one in made.manifest.artefacts if one.precision == "fp16")
    file = made.path / "onnx" / "int8-fp16.onnx"
    shutil.copy(made.path / half.main, file)
    int8 = half.model_copy(
        update={
            "name": "onnx/int8-fp16", "precision": "int8-fp16", "state": State.CANDIDATE, "main": "onnx/int8-fp16.onnx",
            "files": (publish.record(made.path, file),),
        }
    )  # fmt: skip
    manifest = made.manifest.model_copy(update={"artefacts": (*made.manifest.artefacts, int8)})
    (made.path / MANIFEST).write_text(manifest.model_dump_json())
    return Bundle.open(made.path)


@pytest.fixture
def device(monkeypatch):
    """A GPU that is claimed; self-tests pass unless ``failing`` names the precision; ``ratio`` decides the race."""
    pretend_gpu(monkeypatch)
    state = {"ratio": 1.0, "failing": "", "raced": []}

    def judge(backend, path, contract, precision, *rest, **options):
        outcome = "failed" if precision == state["failing"] else "passed"
        return self_test(backend, precision, outcome)

    def race(ways, contract, frames, progress):
        state["raced"].append([way.precision for way in ways])
        assert all(way.file.is_file() for way in ways)
        ratio = state["ratio"]
        return SpeedComparison(
            int8=str(ways[1]), other=str(ways[0]), int8_ms=10 * ratio, other_ms=10, ratio=ratio,
            interval=(ratio - 0.02, ratio + 0.02),
        )  # fmt: skip

    monkeypatch.setattr(module, "check_backend", judge)
    monkeypatch.setattr(challenge, "compare_speed", race)
    return state


def build(bundle, precision="auto"):
    return module.build_bundle(module.BuildRequest(bundle.path, "tensorrt-rtx", precision), Silent())


def test_faster_int8_is_published_and_stays_the_choice(bundle, device):
    device["ratio"] = 0.8
    report = build(bundle)
    assert device["raced"] == [["fp16", "int8-fp16"]]
    assert [outcome.outcome for outcome in report.outcomes] == ["published", "published"]
    assert report.engine.record.precision == "int8-fp16" and report.engine.record.state is State.PUBLISHED
    assert report.engine.record.speed.ratio == 0.8 and "0.80 times" in report.outcomes[-1].detail
    again = build(bundle)
    assert again.engine.record.precision == "int8-fp16" and again.outcomes[0].outcome == "there already"
    assert len(device["raced"]) == 1


@pytest.mark.parametrize("ratio", [1.2, 0.99])
def test_int8_that_is_not_beyond_doubt_faster_is_dropped(bundle, device, ratio):
    device["ratio"] = ratio
    report = build(bundle)
    assert report.engine.record.precision == "fp16" and report.outcomes[-1].outcome == "dropped"
    dropped = next(one.record for one in engines.scan(bundle) if one.record.precision == "int8-fp16")
    assert dropped.state is State.DROPPED and dropped.speed.ratio == ratio
    assert choose(bundle, "tensorrt-rtx").precision == "fp16"
    with pytest.raises(Exception, match="it is no faster: "):
        choose(bundle, "tensorrt-rtx", "int8-fp16")
    assert build(bundle).outcomes[0].outcome == "there already"


def test_int8_that_misses_its_gate_costs_nothing(bundle, device):
    device["failing"] = "int8-fp16"
    report = build(bundle)
    assert report.engine.record.precision == "fp16" and report.parity.precision == "fp16"
    assert [outcome.outcome for outcome in report.outcomes] == ["published", "failed"] and device["raced"] == []


def test_asked_for_by_name_it_is_built_without_a_race(bundle, device):
    report = build(bundle, "int8-fp16")
    assert report.engine.record.precision == "int8-fp16" and report.engine.record.state is State.PUBLISHED
    assert device["raced"] == []
    record = json.loads((report.engine.path.parent / engines.RECORD).read_text())
    assert record["speed"] is None


def test_half_asked_for_by_name_is_not_challenged(bundle, device):
    assert build(bundle, "fp16").engine.record.precision == "fp16" and device["raced"] == []
