"""Which engine a build ends with, when its attempts go as the test wants."""

import json

import pytest

from cdm_export.progress import Silent
from cdm_export.runtimes import engines
from cdm_export.runtimes.bundle import State
from cdm_export.runtimes.errors import BackendUnavailable, EngineBuildError, ParityError
from cdm_export.runtimes.selection import choose
from cdm_export.tensorrt import build as module
from parity_tests.engine_bundle import make_bundle, pretend_gpu, self_test

pytest.importorskip("tensorrt_rtx_bindings")


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "tiny.bundle")


def test_errors_of_all_attempts_are_told(bundle, monkeypatch):

    def refuse(job, *callbacks):
        raise EngineBuildError(f"no {job.precision}")

    monkeypatch.setattr(module, "run_build", refuse)
    with pytest.raises(EngineBuildError, match=r"fp16: no fp16; fp16-attn32: no fp16-attn32; .*; fp32: no fp32"):
        module.build_bundle(module.BuildRequest(bundle.path, "tensorrt-rtx"), Silent())


def test_self_test_decides(bundle, monkeypatch):
    """A GPU that is claimed, a self-test that says what the test wants: what is published, kept aside, remembered."""

    pretend_gpu(monkeypatch)

    def judge(backend, path, contract, precision, *rest, **options):
        assert path.is_file() and (path.parent / engines.RECORD).is_file()
        outcome = "passed" if precision == "fp32" else "failed"
        return self_test(backend, precision, outcome)

    monkeypatch.setattr(module, "check_backend", judge)
    with pytest.raises(ParityError, match=r"p99 too large\); kept aside in .*fp16-failed"):
        module.build_bundle(module.BuildRequest(bundle.path, "tensorrt-rtx", "fp16", fallbacks=False), Silent())
    progress = Silent()
    report = module.build_bundle(module.BuildRequest(bundle.path, "tensorrt-rtx"), progress)
    assert [one.outcome for one in report.outcomes] == ["failed", "failed", "skipped", "published"]
    assert "extra outputs take 0.0 GB, 0.0 GB are free" in report.outcomes[2].detail
    assert report.engine.record.state is State.PUBLISHED and report.engine.record.self_test is not None
    choice = choose(bundle, "tensorrt-rtx")
    assert choice.precision == "fp32" and choice.local and "parity passed" in str(choice)
    assert choose(bundle).backend.name == "tensorrt-rtx"
    report.engine.path.write_bytes(b"another engine")
    record = report.engine.path.parent / engines.RECORD
    changed = json.loads(record.read_text())
    changed["engine"]["sha256"] = "0" * 64
    record.write_text(json.dumps(changed))
    with pytest.raises(BackendUnavailable, match="from another machine"):
        choose(bundle, "tensorrt-rtx", "fp32")  # whoever edits a record vouches for it no longer
    engine = report.engine.record.engine.model_copy(update={"sha256": "0" * 64})
    engines.write_record(record.parent, report.engine.record.model_copy(update={"engine": engine}))
    assert not choose(bundle, "tensorrt-rtx", "fp32").local  # the verdict was about the other engine
