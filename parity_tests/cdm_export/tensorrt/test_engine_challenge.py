"""INT8 against half precision on a device that the test pretends to be: who wins, what is remembered."""

import json
import shutil

import pytest

from cdm_export import publish
from cdm_export.bench import speed_gate
from cdm_export.bench.interleaved import Interleaved
from cdm_export.progress import Silent
from cdm_export.runtimes import engines, local_results
from cdm_export.runtimes.backends import get_backend
from cdm_export.runtimes.bundle import MANIFEST, Bundle, State
from cdm_export.runtimes.quantization import SpeedComparison
from cdm_export.runtimes.selection import choose
from cdm_export.tensorrt import build as module
from cdm_export.tensorrt import int8_selection
from parity_tests.engine_bundle import make_bundle, pretend_gpu, self_test

pytest.importorskip("tensorrt_rtx_bindings")


@pytest.fixture
def bundle(tmp_path):
    """With a second half graph that stands for the INT8 one."""
    made = make_bundle(tmp_path / "tiny.bundle")
    half = next(one for one in made.manifest.artifacts if one.precision == "fp16")
    file = made.path / "onnx" / "int8-fp16.onnx"
    shutil.copy(made.path / half.main, file)
    int8 = half.model_copy(
        update={
            "name": "onnx/int8-fp16", "precision": "int8-fp16", "state": State.CANDIDATE, "main": "onnx/int8-fp16.onnx",
            "files": (publish.record(made.path, file),),
        }
    )  # fmt: skip
    manifest = made.manifest.model_copy(update={"artifacts": (*made.manifest.artifacts, int8)})
    (made.path / MANIFEST).write_text(manifest.model_dump_json())
    return Bundle.open(made.path)


@pytest.fixture
def device(monkeypatch):
    """A GPU that is claimed; self-tests pass unless ``failing`` names the precision; ``ratio`` decides the race."""
    pretend_gpu(monkeypatch)
    state = {"ratio": 1.0, "failing": "", "raced": [], "interrupted": False}

    def judge(backend, path, contract, precision, *rest, **options):
        outcome = "failed" if precision == state["failing"] else "passed"
        return self_test(backend, precision, outcome)

    def race(paths, contract, frames, progress):
        state["raced"].append([path.precision for path in paths])
        assert all(path.file.is_file() for path in paths)
        if state["interrupted"]:
            raise KeyboardInterrupt
        ratio = state["ratio"]
        return SpeedComparison(
            int8=str(paths[1]), other=str(paths[0]), int8_ms=10 * ratio, other_ms=10, ratio=ratio,
            interval=(ratio - 0.02, ratio + 0.02),
        )  # fmt: skip

    monkeypatch.setattr(module, "check_backend", judge)
    monkeypatch.setattr(int8_selection, "compare_speed", race)
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


def interrupted(bundle, device):
    """A build whose race somebody ends with Ctrl-C; the INT8 engine has passed its self-test by then."""
    device["interrupted"] = True
    with pytest.raises(KeyboardInterrupt):
        build(bundle)
    device["interrupted"] = False


def record(bundle, precision):
    return next(one.record for one in engines.scan(bundle) if one.record.precision == precision)


def test_interrupted_race_leaves_a_candidate_that_auto_does_not_take(bundle, device):
    interrupted(bundle, device)
    undecided = record(bundle, "int8-fp16")
    assert undecided.state is State.CANDIDATE and undecided.self_test.passed and undecided.speed is None
    assert choose(bundle, "tensorrt-rtx").precision == "fp16"
    assert choose(bundle).precision == "fp16"


@pytest.mark.parametrize(("ratio", "precision"), [(0.8, "int8-fp16"), (1.2, "fp16")])
def test_the_next_build_races_again_and_builds_nothing(bundle, device, ratio, precision):
    interrupted(bundle, device)
    made = {one.path: one.path.stat().st_mtime_ns for one in engines.scan(bundle)}
    device["ratio"] = ratio
    report = build(bundle)
    assert device["raced"] == [["fp16", "int8-fp16"]] * 2
    assert {one.path: one.path.stat().st_mtime_ns for one in engines.scan(bundle)} == made
    assert [outcome.outcome for outcome in report.outcomes] == [
        "there already", "published" if precision == "int8-fp16" else "dropped",
    ]  # fmt: skip
    assert report.engine.record.precision == precision and choose(bundle, "tensorrt-rtx", precision).local
    assert build(bundle).engine.record.precision == precision and len(device["raced"]) == 2


def test_an_undecided_engine_is_no_choice_after_verify_either(bundle, device):
    """``verify`` remembers that it is right; whether it is worth having, only the race tells."""
    interrupted(bundle, device)
    backend = get_backend("tensorrt-rtx")
    engine = engines.find(bundle, backend, "int8-fp16")
    local = local_results.LocalVerdict(
        backend=backend.name, precision="int8-fp16", artifact=engine.record.engine.sha256,
        host=local_results.host(backend), version=backend.version, verdict=engine.record.self_test, p50_ms=0.001,
    )  # fmt: skip
    assert local_results.save(bundle, local) is not None
    assert choose(bundle, "tensorrt-rtx").precision == "fp16"
    assert choose(bundle, "tensorrt-rtx", "int8-fp16").local, "by name it may be run"


def test_what_failed_its_gate_is_not_built_again(bundle, device):
    device["failing"] = "int8-fp16"
    build(bundle)
    device["failing"] = ""
    assert [outcome.outcome for outcome in build(bundle).outcomes] == ["there already"] and device["raced"] == []


def test_a_race_that_was_cut_short_decides_nothing(monkeypatch, contract, tmp_path):
    """Ctrl-C after some rounds ends the race with figures; they are no reason to publish or to drop anything."""
    monkeypatch.setattr(
        speed_gate, "run_interleaved", lambda *arguments: Interleaved(finished={}, failed={}, complete=False)
    )
    paths = [
        speed_gate.ExecutionPath(backend="onnxruntime", precision=name, file=tmp_path) for name in ("fp32", "int8")
    ]
    with pytest.raises(KeyboardInterrupt):
        speed_gate.compare_speed(paths, contract, [], Silent())
