"""The benchmark: statistics, what is skipped, what dies, what is interrupted, and what another run is compared with."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cdm_export.bench import BenchRequest, bench_bundle, load_result
from cdm_export.bench import bench as bench_module
from cdm_export.bench.compare import compare_results
from cdm_export.bench.environment import conditions, environment
from cdm_export.bench.markdown import to_markdown
from cdm_export.bench.power import PowerMeter, find_rails
from cdm_export.bench.remember import remember
from cdm_export.bench.statistics import mean_interval, median_interval, paired_ratio, unpaired_ratio
from cdm_export.progress import Silent
from cdm_export.runtimes import local_results
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.errors import BackendCrashed, InputError
from cdm_export.runtimes.isolated import Child
from cdm_export.runtimes.measure import Turns
from parity_tests.cdm_export.bench.test_power import orin_nano
from parity_tests.conftest import cli

SAMPLES = list(np.random.default_rng(3).gamma(4, 5, 60) + 10)


def test_intervals_hold_the_estimate_and_repeat():
    for interval in (mean_interval(SAMPLES), median_interval(SAMPLES)):
        middle, low, high = interval
        assert low < middle < high and high - low < 10
    assert mean_interval(SAMPLES)[0] == pytest.approx(np.mean(SAMPLES)) and mean_interval(SAMPLES) == mean_interval(
        SAMPLES
    )
    assert mean_interval([7.0]) == (7.0, 7.0, 7.0)


def test_pairing_cancels_what_disturbed_both():
    drift = np.linspace(1, 5, 60)
    ours, theirs = np.asarray(SAMPLES) * drift * 0.8, np.asarray(SAMPLES) * drift
    middle, low, high = paired_ratio(list(ours), list(theirs))
    assert low == pytest.approx(0.8) and high == pytest.approx(0.8) and middle == pytest.approx(0.8)
    _, low, high = unpaired_ratio(list(ours), list(theirs))
    assert high - low > 0.3  # without pairs nobody could tell


def test_one_that_dies_is_out_and_the_others_go_on():
    left = iter([1.0, 1.0, 1.0])

    def dies():
        try:
            return next(left)
        except StopIteration:
            raise BackendCrashed("killed by a test") from None

    turns = Turns({"dies": dies, "lives": lambda: 2.0})
    turns.warm_up()
    assert list(turns.rounds(4)) == [0, 1, 2, 3]
    assert turns.failed["dies"].message == "killed by a test" and turns.timed == {"dies": [1.0], "lives": [2.0] * 4}


@pytest.fixture(scope="module")
def benched(small_bundle, tmp_path_factory):
    """A copy of the small bundle, timed, and the result."""
    bundle = tmp_path_factory.mktemp("bench") / "small.bundle"
    shutil.copytree(small_bundle, bundle)
    return bundle, bench_bundle(BenchRequest(bundle, precision="fp32", frames=6), Silent())


def test_every_backend_here_is_timed(benched):
    bundle, result = benched
    assert {entry.name for entry in result.entries} == {"openvino fp32", "onnxruntime fp32"}
    assert result.complete and not result.failed and result.baseline == "onnxruntime fp32"
    assert any(name.startswith("onnxruntime-cuda") for name in result.skipped)
    for entry in result.entries:
        assert set(entry.stages) == {"preprocess", "inference", "postprocess", "total"}
        assert len(entry.samples_ms) == 6 and all(stage.calls == 6 for stage in entry.stages.values())
        total = entry.stages["total"]
        assert 0 < entry.stages["inference"].p50 <= total.p50 <= total.p90 <= total.p99 <= total.max
        assert entry.mean[1] <= entry.mean[0] <= entry.mean[2] and entry.open_ms > 0 and entry.first_ms > 0
        assert 20 < (entry.rss_anon_mb or entry.peak_rss_mb) <= entry.peak_rss_mb < 4000
        assert entry.description["backend"] == entry.backend
    ratios = {entry.name: entry.ratio for entry in result.entries}
    assert ratios["onnxruntime fp32"] == (1.0, 1.0, 1.0) and ratios["openvino fp32"][0] > 0
    assert load_result(local_results.find_bench(Bundle.open(bundle))) == result


def test_every_pair_is_kept_for_auto(benched):
    """Round by round, both ways; a path with threads of its own, or of too few rounds, is none that auto takes."""
    bundle, result = benched
    speeds = local_results.load_speeds(Bundle.open(bundle))
    assert set(speeds) == {("openvino", "fp32"), ("onnxruntime", "fp32")}
    samples = {entry.backend: entry.samples_ms for entry in result.entries}
    for ours, theirs in (("openvino", "onnxruntime"), ("onnxruntime", "openvino")):
        (ratio,) = speeds[ours, "fp32"].ratios
        assert (ratio.baseline.backend, ratio.rounds) == (theirs, 6)
        assert (ratio.ratio, *ratio.interval) == pytest.approx(paired_ratio(samples[ours], samples[theirs]))


def test_no_pair_of_few_rounds_is_kept(benched, tmp_path):
    bundle = tmp_path / "small.bundle"
    shutil.copytree(benched[0], bundle, ignore=shutil.ignore_patterns("engines"))
    few = [entry.model_copy(update={"samples_ms": entry.samples_ms[:4]}) for entry in benched[1].entries]
    threads = [entry.model_copy(update={"threads": 1}) for entry in benched[1].entries]
    for entries in (few, threads):
        remember(Bundle.open(bundle), benched[1].model_copy(update={"entries": tuple(entries)}), Silent())
    assert local_results.load_speeds(Bundle.open(bundle)) == {}


def test_markdown_never_without_conditions(benched):
    text = to_markdown(benched[1])
    assert "| openvino fp32 |" in text and "passed where it was made" in text and "* cpu: " in text
    assert "power and energy: not measured" in text
    assert "onnxruntime-cuda fp32: not run (" in text and "seeded random weights (seed 1)" in text


def test_stages_of_a_device_are_shown(benched):
    """Of a runtime that has them; the bars and the total stay what they were."""
    entry = benched[1].entries[0]
    timed = entry.model_copy(update={"stages": {**entry.stages, "engine": entry.stages["inference"]}})
    text = to_markdown(benched[1].model_copy(update={"entries": (timed,)}))
    assert f"{entry.name}, by the device's clock, p50: engine {entry.stages['inference'].p50:.3g} ms" in text
    assert "by the device's clock" not in to_markdown(benched[1])


def test_against_itself_is_noise_and_twice_as_slow_is_slower(benched):
    timed = {"samples_ms": (9.8, 10.1, 10.0, 9.9, 10.2, 10.0)}
    steady = [entry.model_copy(update=timed) for entry in benched[1].entries]
    result = benched[1].model_copy(update={"entries": tuple(steady)})  # what it decides, whatever this machine timed
    same = compare_results(result, result)
    assert {change.word for change in same.changes} == {"noise"} and not same.conditions and not same.only
    slow = result.entries[0].model_copy(update={"samples_ms": tuple(2 * ms for ms in result.entries[0].samples_ms)})
    changed = result.model_copy(
        update={"entries": (slow,), "environment": {**result.environment, "cpu": "another"}, "idle_ms": 5.0}
    )
    comparison = compare_results(changed, result)
    assert [(change.name, change.word) for change in comparison.changes] == [(slow.name, "slower")]
    assert comparison.only == {result.entries[1].name: "old"}
    assert comparison.conditions == (
        "idle_ms: 0.0 -> 5.0",
        f"cpu: {result.environment['cpu']} -> another",
    )


def test_a_backend_killed_in_a_round_is_reported(small_bundle, monkeypatch):
    ask = Child.ask

    def killed(self, request):
        if self._what.startswith("openvino") and request["round"] == 2:
            self._process.kill()
        return ask(self, request)

    monkeypatch.setattr(Child, "ask", killed)
    result = bench_bundle(BenchRequest(small_bundle, frames=5), Silent())
    assert [entry.name for entry in result.entries] == ["onnxruntime fp32"] and result.complete
    assert "SIGKILL" in result.failed["openvino fp32"] and len(result.entries[0].samples_ms) == 5


def test_interrupted_keeps_full_rounds(small_bundle, tmp_path):
    out = tmp_path / "bench.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "cdm_export", "bench", small_bundle, "--frames", "2000", "--idle", "20", "-o", out],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "rounds of" in line:
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in printed
    result = load_result(out)
    assert not result.complete and 1 <= len(result.entries[0].samples_ms) < 2000
    assert len({len(entry.samples_ms) for entry in result.entries}) == 1


def test_failed_artifact_is_skipped_and_said(small_bundle, tmp_path):
    bundle = tmp_path / "failed.bundle"
    shutil.copytree(small_bundle, bundle, ignore=shutil.ignore_patterns("engines"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    verdict = next(v for v in manifest["artefacts"][0]["verdicts"] if v["backend"] == "openvino")
    verdict["verdict"] = "failed"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = bench_bundle(BenchRequest(bundle, precision="fp32", frames=1), Silent())
    assert [entry.name for entry in result.entries] == ["onnxruntime fp32"]
    assert "failed its parity gate" in result.skipped["openvino fp32"]


def test_threads_idle_and_power(small_bundle, tmp_path, monkeypatch):
    orin_nano(tmp_path)
    monkeypatch.setattr(bench_module, "PowerMeter", lambda: PowerMeter(find_rails(tmp_path)))
    result = bench_bundle(
        BenchRequest(small_bundle, "onnxruntime", "fp32", threads=(1, 0), frames=5, idle_ms=1.0), Silent()
    )
    for entry in result.entries:
        assert (
            entry.power.joules_per_frame > 0.999 * 5.04e-3 * entry.mean[0]
        )  # the board also takes power between stages
        assert f"{entry.name}: {entry.power}" in to_markdown(result)
    assert [entry.name for entry in result.entries] == ["onnxruntime fp32 x1", "onnxruntime fp32"]
    assert result.entries[0].description["threads"] == 1


def test_latencies_reach_auto_only_for_what_was_verified(small_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "cache"))
    bundle = tmp_path / "small.bundle"
    shutil.copytree(small_bundle, bundle, ignore=shutil.ignore_patterns("engines"))
    bench_bundle(BenchRequest(bundle, "onnxruntime", frames=1), Silent())
    assert local_results.load(Bundle.open(bundle)) == {}
    assert cli("verify", bundle, "--backend", "onnxruntime", "-q").returncode == 0
    result = bench_bundle(BenchRequest(bundle, "onnxruntime", frames=3), Silent())
    local = local_results.load(Bundle.open(bundle))["onnxruntime", "fp32"]
    assert local.p50_ms == result.entries[0].stages["inference"].p50 and local.verdict.verdict == "passed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "two"], "--threads wants numbers"),
        (["--frames", "0"], "--frames must be at least 1"),
        (["--seconds", "-1"], "--seconds must be above 0"),
        (["--backend", "onnx"], "unknown backend 'onnx'"),
        (["--precision", "fp8"], "no fp8 artifact"),
        (["-o", "bench.txt"], "written as .json or .md"),
        (["--compare", "missing.json"], "missing.json"),
    ],
)
def test_wrong_words(small_bundle, arguments, words):
    done = cli("bench", small_bundle, *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_result_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"schema_version": 2}')
    with pytest.raises(InputError, match="no result of this version's bench"):
        load_result(tmp_path / "x.json")


def test_environment_says_where(monkeypatch):
    found = environment()
    assert found["cpu"] and found["usable_cpus"] >= 1 and found["libraries"]["numpy"] == np.__version__
    assert None not in found.values() and "load_1min" in conditions()
    monkeypatch.setenv("PATH", "")
    assert "gpu" not in environment()


def test_nothing_to_time_says_what_to_do(small_bundle, monkeypatch):
    def refused(*arguments):
        raise bench_module.BackendUnavailable("not here", "")

    monkeypatch.setattr(bench_module, "choose", refused)
    with pytest.raises(bench_module.BackendUnavailable, match="nothing could be timed here") as caught:
        bench_bundle(BenchRequest(small_bundle), Silent())
    assert "doctor" in caught.value.next_step
