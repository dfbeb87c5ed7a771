"""Results that came with a bundle are shown and never believed; those of this user on this machine are."""

import json
import shutil
import stat
import threading

import pytest

from cdm_export.cli import run_command
from cdm_export.report import issues
from cdm_export.runtimes import engines, local_results, signing
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import State, Verdict
from cdm_export.runtimes.cache import cache_dir
from cdm_export.runtimes.engine_record import EngineRecord, Source
from cdm_export.runtimes.errors import BackendUnavailable, BundleError
from cdm_export.runtimes.local_results import LocalVerdict
from cdm_export.runtimes.nvidia import system_name
from cdm_export.runtimes.selection import choose
from cdm_export.runtimes.signing import FOREIGN, MAC, Kind
from parity_tests.engine_bundle import make_bundle
from parity_tests.places import DATA

RECORDS = DATA / "records-0.1"
RTX = BACKENDS["tensorrt-rtx"]


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "cache"))
    return make_bundle(tmp_path / "tiny.bundle")


def verdict(outcome="passed"):
    return Verdict(
        backend="onnxruntime", verdict=outcome, reason="", frames=1, mean=1e-4, p99=1e-4, max=1e-4, mean_mm=0.1,
        reference="r",
    )  # fmt: skip


def learn(bundle, precision="fp32", outcome="passed"):
    here = local_results.path_here(bundle, BACKENDS["onnxruntime"], precision)
    return local_results.save(bundle, LocalVerdict(**dict(here), verdict=verdict(outcome), p50_ms=5.0))


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def another_machine(monkeypatch, tmp_path):
    """The same processor, another user or container: only the bundle travels."""
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "another"))


def test_ones_own_verdict_counts(bundle):
    path = learn(bundle)
    assert bundle.path in path.parents and MAC in json.loads(path.read_text())
    assert choose(bundle).local and local_results.foreign(bundle) == []
    secret = cache_dir() / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and len(secret.read_bytes()) == 32


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["verdict"].update(mean=1e-9),
        lambda data: data.update(p50_ms=0.001),
        lambda data: data.pop(MAC),
        lambda data: data.update({MAC: "0" * 64}),
        lambda data: data.update({MAC: 5}),
        lambda data: data.update({MAC: "é" * 64}),
    ],
    ids=["figure", "latency", "no MAC", "another MAC", "no text", "no ASCII"],
)
def test_an_edited_verdict_is_foreign(bundle, change):
    path = learn(bundle)
    edit(path, change)
    assert local_results.load(bundle) == {}
    (found,) = local_results.foreign(bundle)
    assert found.path == path and "onnxruntime fp32: passed" in found.what
    with pytest.raises(BackendUnavailable):
        choose(bundle)  # nothing else was verified


def test_a_failed_verdict_of_another_machine_forbids_nothing(bundle, monkeypatch, tmp_path):
    learn(bundle, outcome="failed")
    another_machine(monkeypatch, tmp_path)
    assert choose(bundle, "onnxruntime", "fp32").verdict is None


def test_a_verdict_that_travelled_is_shown_and_not_used(bundle, monkeypatch, tmp_path, capsys):
    path = learn(bundle, "fp16")
    another_machine(monkeypatch, tmp_path)
    with pytest.raises(BackendUnavailable) as caught:
        choose(bundle, precision="fp16")
    said = str(caught.value)
    assert f"{path} is {FOREIGN}" in said and f"cdm-export verify {bundle.path} --precision fp16" in said
    assert run_command(["inspect", str(bundle.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"onnxruntime fp16: {verdict()}; {FOREIGN}" in shown and "on this machine" not in shown
    assert run_command(["inspect", str(bundle.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in document["foreign"]] == [str(path)] and document["verified_here"] == []
    monkeypatch.setattr(issues, "examine", list)
    (issue,) = issues.known_issues(bundle)
    assert FOREIGN in issue.fault and "cdm-export verify" in issue.workaround


def test_a_verdict_of_version_0_1_is_foreign(bundle):
    old = json.loads((RECORDS / "verdict.json").read_text())
    here = local_results.path_here(bundle, BACKENDS["onnxruntime"], "fp32")
    old |= json.loads(here.model_dump_json(by_alias=True))
    folder = bundle.path / "engines" / "onnxruntime-0.1"
    folder.mkdir(parents=True)
    (folder / "verdict-fp32.json").write_text(json.dumps(old))
    assert local_results.load(bundle) == {} and len(local_results.foreign(bundle)) == 1
    cached = cache_dir() / bundle.identity / "onnxruntime-0.1"
    shutil.copytree(folder, cached)  # this user's cache is this user's
    assert ("onnxruntime", "fp32") in local_results.load(bundle)


def test_a_mac_of_one_kind_is_none_of_another(bundle):
    path = learn(bundle)
    with pytest.raises(ValueError):
        signing.read_signed(Kind.SPEED, path, local_results.LocalSpeed)
    assert signing.read_signed(Kind.VERDICT, path, LocalVerdict)[1]
    assert not signing.read_signed(Kind.BENCH, path, LocalVerdict)[1]


def test_one_secret_whoever_comes_first(bundle):
    paths, ready = [], threading.Barrier(8)

    def sign():
        ready.wait()
        paths.append(signing.signed_text(Kind.VERDICT, verdict()))

    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert sorted(path.name for path in cache_dir().iterdir()) == [".secret.lock", "secret"]


def test_a_damaged_secret_is_made_anew_and_old_results_are_foreign(bundle):
    path = learn(bundle)
    (cache_dir() / "secret").write_bytes(b"short")
    assert local_results.load(bundle) == {}
    assert learn(bundle) == path and ("onnxruntime", "fp32") in local_results.load(bundle)


def test_where_no_secret_can_be_kept_nothing_is_remembered(bundle, monkeypatch, tmp_path):
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "blocked"))
    assert learn(bundle) is None and not (bundle.path / "engines").exists()


@pytest.fixture
def engine(bundle, monkeypatch):
    """An engine that fits this machine in every respect, with its verdict, as ``build`` leaves them."""
    old, _ = signing.read_signed(Kind.ENGINE, RECORDS / "engine.json", EngineRecord)
    artifact = next(one for one in bundle.manifest.artifacts if one.precision == "fp16")
    monkeypatch.setattr(type(RTX), "version", old.machine.version)
    folder = bundle.path / "engines" / "rtx" / "fp16"
    folder.mkdir(parents=True)
    (folder / engines.PLAN).write_bytes(b"code")
    from cdm_export import publish

    record = old.model_copy(
        update={
            "precision": "fp16",
            "state": State.PUBLISHED,
            "source": Source(artifact=artifact.name, identity=artifact.identity),
            "contract": bundle.manifest.contract,
            "engine": publish.record(folder, folder / engines.PLAN),
            "machine": old.machine.model_copy(update={"backend": RTX.name, "system": system_name(), "gpu": None}),
            "self_test": verdict(),
        }
    )
    engines.write_record(folder, record)
    here = local_results.path_here(bundle, RTX, "fp16")
    local_results.save(bundle, LocalVerdict(**dict(here), verdict=verdict(), p50_ms=1.0))
    return folder


def test_ones_own_engine_is_found(bundle, engine):
    assert engines.find(bundle, RTX, "fp16").path == engine / engines.PLAN
    assert choose(bundle, RTX.name).local
    record = engines.read_record(engine)
    engines.check_engine(engine / engines.PLAN, record, record.machine)


def foreign_engine_is_refused(bundle, engine):
    assert engines.find(bundle, RTX, "fp16") is None
    with pytest.raises(BackendUnavailable) as caught:
        choose(bundle, RTX.name, "fp16")
    said = str(caught.value)
    assert FOREIGN in said and f"cdm-export build {bundle.path} --target {RTX.name} --precision fp16" in said
    record = engines.read_record(engine)
    with pytest.raises(BundleError, match="from another machine") as refused:
        engines.check_engine(engine / engines.PLAN, record, record.machine)
    assert f"cdm-export build {bundle.path} --target {RTX.name} --precision fp16" in refused.value.next_step
    (found,) = (one for one in local_results.foreign(bundle) if one.path.name == engines.PLAN)
    assert found.what.startswith("engine fp16 for TensorRT-RTX")


def test_an_engine_that_travelled_is_no_engine(bundle, engine, monkeypatch, tmp_path):
    another_machine(monkeypatch, tmp_path)
    foreign_engine_is_refused(bundle, engine)


def test_an_engine_whose_record_was_written_to_fit_is_no_engine(bundle, engine):
    """Foreign code with a hash of its own making."""
    (engine / engines.PLAN).write_bytes(b"evil")
    from cdm_export.runtimes.hashing import sha256_of

    edit(engine / engines.RECORD, lambda data: data["engine"].update(sha256=sha256_of(engine / engines.PLAN)))
    foreign_engine_is_refused(bundle, engine)


def test_an_engine_of_version_0_1_is_no_engine(bundle, engine):
    edit(engine / engines.RECORD, lambda data: data.pop(MAC))
    foreign_engine_is_refused(bundle, engine)


def test_the_bench_of_another_machine_is_not_this_ones(bundle, monkeypatch, tmp_path):
    path = local_results.save_bench(bundle, verdict())
    assert local_results.find_bench(bundle) == path
    edit(path, lambda data: data.update(mean=1.0))
    assert local_results.find_bench(bundle) is None
    assert [one.path for one in local_results.foreign(bundle)] == [path]
