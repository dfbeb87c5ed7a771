"""A busy machine is told from a quiet one, and whoever measures on it is warned."""

import json
import os
from types import SimpleNamespace

import pytest

from cdm_export.bench import BenchRequest, bench_bundle
from cdm_export.bench import bench as bench_module
from cdm_export.bench.markdown import to_markdown
from cdm_export.cli import run_command
from cdm_export.parity import verify as verify_module
from cdm_export.progress import Silent
from cdm_export.report import ReportRequest, write_page
from cdm_export.runtimes import local_results, machine_load
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.machine_load import LoadWatch, MachineLoad
from parity_tests.engine_bundle import self_test
from parity_tests.tiny_bundle import make_tiny

BUSY = MachineLoad(cpus=2, others=0.75, load_1min=27.0, all_cpus=2)
WORDS = (
    "the machine was busy with something else (others took 75% of the time of 2 CPU(s), load average 27 on 2 CPU(s))"
)


def test_what_is_said():
    assert str(BUSY).startswith(WORDS) and str(MachineLoad(2, 0.05, 1.9, 2)) == ""


@pytest.mark.parametrize(
    ("others", "load", "busy"),
    [
        (0.75, None, True),
        (0.21, 0.5, True),
        (0.05, 2.5, False),  # what ran a minute ago, perhaps ourselves, is over
        (0.05, 27.0, True),  # they wait for the disk
        (None, 27.0, True),
        (None, 2.5, True),
        (None, 1.9, False),
        (None, None, False),  # a system that does not tell
    ],
)
def test_when_it_is_busy(others, load, busy):
    assert MachineLoad(2, others, load, 2).busy is busy


def watch(monkeypatch, seconds, total, own, cpus=2):
    """``seconds`` on the clock; the CPUs worked ``total``, this process and its children ``own`` seconds of them."""
    monkeypatch.setattr(machine_load, "usable_cpus", lambda: cpus)
    clock, ticks, spent = iter((100.0, 100.0 + seconds)), iter((50.0, 50.0 + total)), iter((5.0, 5.0 + own))
    monkeypatch.setattr(machine_load, "_own_seconds", lambda: next(spent))
    return LoadWatch(lambda: next(ticks), lambda: next(clock)).load()


def test_what_others_took_is_what_we_did_not(monkeypatch):
    assert watch(monkeypatch, 10, 18, 3).others == pytest.approx(0.75)
    assert watch(monkeypatch, 10, 18, 18).others == 0
    assert watch(monkeypatch, 10, 3, 4).others == 0  # ticks are coarse
    assert watch(monkeypatch, 10, 0, 0).others is None  # a system that counts nothing
    assert watch(monkeypatch, 0.1, 0.2, 0).others is None  # too short to say


def test_this_system_tells_or_does_not(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    ours = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    lines = [f"cpu{number} 100 10 50 99999 9999 1 2 3 77 0" for number in (*ours, 999)]
    stat.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 0", *lines, "intr 5"]))
    monkeypatch.setattr(machine_load, "_STAT", stat)
    if hasattr(os, "sched_getaffinity"):
        assert machine_load._busy_seconds() == pytest.approx(166 * len(ours) / os.sysconf("SC_CLK_TCK"))
    monkeypatch.setattr(machine_load, "_STAT", tmp_path / "nothing")
    assert machine_load._busy_seconds() is None
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert LoadWatch().load().busy is False


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A busy machine, and a bundle whose verification takes no process."""
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "cache"))
    load = SimpleNamespace(load=lambda: BUSY)
    for module in (bench_module, verify_module):
        monkeypatch.setattr(module, "LoadWatch", lambda: load)
    monkeypatch.setattr(
        verify_module,
        "check_backend",
        lambda backend, path, contract, precision, *rest, **options: self_test(backend, precision, "passed"),
    )
    return make_tiny(tmp_path / "tiny.bundle", 2)


@pytest.mark.parametrize("options", [(), ("-q",), ("--json",)], ids=["plain", "quiet", "json"])
def test_verify_warns_whoever_asks_it_to_be_quiet(bundle, options, capsys):
    assert run_command(["verify", str(bundle), "--backend", "onnxruntime", *options]) == 0
    printed = capsys.readouterr()
    assert f"warning: onnxruntime fp32: {WORDS}" in printed.err
    if options == ("--json",):
        assert json.loads(printed.out)["warnings"][0].startswith(f"onnxruntime fp32: {WORDS}")
    assert local_results.load(Bundle.open(bundle))["onnxruntime", "fp32"].disturbed.startswith(WORDS)


def test_the_page_says_so(bundle, tmp_path):
    assert verify_module.verify_bundle(verify_module.VerifyRequest(bundle, "onnxruntime"), Silent()).warnings
    page = write_page(ReportRequest(bundle, tmp_path / "page.html")).read_text()
    assert f"While onnxruntime fp32 was measured, {WORDS}" in " ".join(page.split())


def test_bench_warns_and_writes_it_down(small_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench_module, "LoadWatch", lambda: SimpleNamespace(load=lambda: BUSY))
    progress = Silent()
    result = bench_bundle(BenchRequest(small_bundle, "onnxruntime", "fp32", frames=1), progress)
    assert progress.warnings == list(result.warnings) == [str(BUSY)]
    assert f"**Warning: {BUSY}.**" in to_markdown(result)
    assert json.loads(result.model_dump_json())["warnings"] == [str(BUSY)]
    page = write_page(ReportRequest(small_bundle, tmp_path / "page.html")).read_text()
    assert f"While the benchmark ran, {WORDS}" in " ".join(page.split())
