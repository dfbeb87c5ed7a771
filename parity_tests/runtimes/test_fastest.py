"""``auto`` and speed: FP32 unless something else is faster beyond doubt, on this machine, timed in turn."""

import pytest

from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Verdict
from cdm_export.runtimes.fastest import PRECISIONS, Candidate, fastest
from cdm_export.runtimes.local_results import LocalSpeed, LocalVerdict, Ratio, RunPath
from cdm_export.runtimes.selection import choose
from parity_tests.engine_bundle import make_bundle

FP32 = ("onnxruntime", "fp32")


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "cache"))
    return make_bundle(tmp_path / "tiny.bundle")


def learn(bundle, backend, precision, p50):
    verdict = Verdict(
        backend=backend, verdict="passed", reason="", frames=1, mean=1e-6, p99=1e-6, max=1e-6, mean_mm=1e-3,
        reference="r",
    )  # fmt: skip
    here = local_results.path_here(bundle, BACKENDS[backend], precision)
    local_results.save(bundle, LocalVerdict(**dict(here), verdict=verdict, p50_ms=p50))
    return here


def race(bundle, path, baseline, low, high, rounds=20):
    ratio = Ratio(baseline=baseline, ratio=(low + high) / 2, interval=(low, high), rounds=rounds)
    assert local_results.save_speed(bundle, LocalSpeed(**dict(path), ratios=(ratio,))) is not None


def test_noise_between_two_measurements_never_leaves_fp32(bundle):
    """The fault as it was met: verify under load measured fp32 at 7513 ms and fp16-attn32 at 4444 ms."""
    learn(bundle, "openvino", "fp32", 7513.0)
    learn(bundle, "onnxruntime", "fp32", 7600.0)
    learn(bundle, "onnxruntime", "fp16-attn32", 4444.0)
    learn(bundle, "onnxruntime", "fp16", 0.001)
    assert choose(bundle).name == "openvino fp32" and choose(bundle, "onnxruntime").precision == "fp32"
    assert choose(bundle, precision="fp16").name == "onnxruntime fp16", "by name it may be run"


@pytest.mark.parametrize(
    ("low", "high", "rounds", "precision"),
    [
        (0.80, 0.90, 20, "fp16"),
        (0.80, 1.01, 20, "fp32"),
        (1.10, 1.20, 20, "fp32"),
        (0.80, 1.00, 20, "fp32"),
        (0.50, 0.50, 1, "fp32"),  # one pair has an interval of no width
    ],
)
def test_a_race_decides_where_the_whole_interval_is_below_one(bundle, low, high, rounds, precision):
    baseline = learn(bundle, "onnxruntime", "fp32", 10.0)
    path = learn(bundle, "onnxruntime", "fp16", 5.0)
    race(bundle, path, baseline, low, high, rounds)
    assert choose(bundle).precision == precision


def test_a_win_has_to_be_against_the_best_of_full_precision(bundle):
    learn(bundle, "openvino", "fp32", 5.0)
    slow = learn(bundle, "onnxruntime", "fp32", 10.0)
    half = learn(bundle, "onnxruntime", "fp16", 7.0)
    race(bundle, half, slow, 0.6, 0.7)
    assert choose(bundle).name == "openvino fp32"
    assert choose(bundle, "onnxruntime").precision == "fp16"


@pytest.mark.parametrize(
    ("side", "field", "value"),
    [
        ("path", "artifact", "0" * 64),
        ("path", "host", "00000000"),
        ("baseline", "artifact", "0" * 64),
        ("baseline", "version", "0.0.1"),
        ("baseline", "backend", "tensorrt"),
    ],
)
def test_a_race_of_something_else_is_void(bundle, side, field, value):
    paths = {
        "baseline": learn(bundle, "onnxruntime", "fp32", 10.0),
        "path": learn(bundle, "onnxruntime", "fp16", 5.0),
    }
    paths[side] = paths[side].model_copy(update={field: value})
    race(bundle, paths["path"], paths["baseline"], 0.5, 0.6)
    assert choose(bundle).precision == "fp32"


def test_another_race_adds_to_what_is_known(bundle):
    baseline, other = learn(bundle, "onnxruntime", "fp32", 10.0), learn(bundle, "openvino", "fp32", 12.0)
    half = learn(bundle, "onnxruntime", "fp16", 5.0)
    race(bundle, half, baseline, 0.5, 0.6)
    race(bundle, half, other, 0.4, 0.5)
    race(bundle, half, baseline, 0.9, 1.1)
    ratios = local_results.load_speeds(bundle)["onnxruntime", "fp16"].by_path
    assert ratios[FP32].interval == (0.9, 1.1) and ratios["openvino", "fp32"].interval == (0.4, 0.5)


@pytest.mark.parametrize(("p50", "name"), [(9.2, "openvino fp32"), (8.9, "onnxruntime fp32")])
def test_close_figures_of_different_times_are_a_tie(bundle, p50, name):
    learn(bundle, "openvino", "fp32", 10.0)
    learn(bundle, "onnxruntime", "fp32", p50)
    assert choose(bundle).name == name


def test_between_paths_of_full_precision_a_race_counts_more_than_figures_of_different_times(bundle):
    baseline = learn(bundle, "openvino", "fp32", 10.0)
    path = learn(bundle, "onnxruntime", "fp32", 8.0)
    race(bundle, path, baseline, 0.97, 1.02)
    assert choose(bundle).name == "openvino fp32"
    race(bundle, path, baseline, 0.90, 0.99)
    assert choose(bundle).name == "onnxruntime fp32"


def candidate(name, precision="fp32", p50=None, engine=False, won=False, **against):
    ratios = {
        (key, "fp32"): Ratio(
            baseline=RunPath(backend=key, precision="fp32", artifact="a", host="h", version="v"),
            ratio=sum(interval) / 2,
            interval=interval,
            rounds=9,
        )
        for key, interval in against.items()
    }
    return Candidate(name, (name, precision), engine, p50, won, ratios)


def best(*candidates):
    return fastest(candidates).what


def test_an_engine_was_asked_for_by_building_it():
    assert best(candidate("cpu", p50=1.0), candidate("trt", "fp16", 9.0, True)) == "trt"
    assert best(candidate("trt", "fp32", 9.0, True), candidate("half", "fp16", 4.0, True)) == "half"
    assert best(candidate("trt", "fp32", 9.0, True), candidate("half", "fp16", 8.5, True)) == "trt"
    assert best(candidate("half", "fp16", 4.0, True), candidate("int", "int8-fp16", 4.0, True, won=True)) == "int"
    assert best(candidate("half", "fp16", 4.0, True), candidate("cpu", p50=1.0, half=(0.1, 0.2))) == "half"
    winner = candidate("cpu", p50=9.0, trt=(0.1, 0.2))
    assert best(winner, candidate("trt", "fp32", 1.0, True)) == "cpu", "unless a race says that it is slower"


def test_the_race_may_have_been_written_down_from_the_other_side():
    slower = candidate("ov", "fp32", 10.0, ort=(1.2, 1.3))
    assert best(slower, candidate("ort", p50=11.0)) == "ort"


def test_every_precision_has_its_place():
    from typing import get_args

    from cdm_export.runtimes.contract import Precision

    assert set(PRECISIONS) == set(get_args(Precision)) and PRECISIONS[0] == "fp32"
