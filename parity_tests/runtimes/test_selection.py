"""What ``auto`` means: only what passed, the fastest measured here first."""

import shutil

import pytest

from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Bundle, Verdict
from cdm_export.runtimes.errors import InputError, ParityError
from cdm_export.runtimes.host import fingerprint
from cdm_export.runtimes.selection import choose


@pytest.fixture
def bundle(small_bundle, tmp_path):
    copy = tmp_path / "copy.bundle"
    shutil.copytree(small_bundle, copy, ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(copy)


def learn(bundle, backend, outcome="passed", p50=None, **changed):
    verdict = Verdict(
        backend=backend,
        verdict=outcome,
        reason="",
        frames=1,
        mean=1e-6,
        p99=1e-6,
        max=1e-6,
        mean_mm=1e-3,
        reference="r",
    )
    local = local_results.LocalVerdict(
        backend=backend,
        precision="fp32",
        artifact=bundle.manifest.artifacts[0].identity,
        host=fingerprint(),
        version=BACKENDS[backend].version,
        verdict=verdict,
        p50_ms=p50,
    )
    return local_results.save(bundle, local.model_copy(update=changed))


def test_without_measurement_the_stated_order(bundle):
    choice = choose(bundle)
    assert choice.backend.name == "openvino" and not choice.local
    assert "passed" in str(choice) and "where the bundle was made" in str(choice)


def test_fastest_measured_here(bundle):
    learn(bundle, "openvino", p50=30.0)
    learn(bundle, "onnxruntime", p50=20.0)
    choice = choose(bundle)
    assert choice.backend.name == "onnxruntime" and choice.local and "on this machine" in str(choice)


def test_what_failed_here_is_not_taken(bundle):
    learn(bundle, "openvino", outcome="failed", p50=1.0)
    assert choose(bundle).backend.name == "onnxruntime"
    with pytest.raises(ParityError, match="failed its parity gate"):
        choose(bundle, "openvino")
    learn(bundle, "onnxruntime", outcome="inconclusive")
    with pytest.raises(ParityError, match="everything that could run here failed"):
        choose(bundle)


@pytest.mark.parametrize(
    "changed", [{"host": "00000000"}, {"artifact": "0" * 64}, {"version": "0.0.1"}], ids=["host", "artifact", "library"]
)
def test_verdict_made_with_something_else_is_void(bundle, changed):
    learn(bundle, "openvino", outcome="failed", **changed)
    assert choose(bundle).backend.name == "openvino"
    learn(bundle, "onnxruntime", p50=1.0, **changed)
    assert not choose(bundle).local


def test_damaged_verdict_is_no_verdict(bundle):
    learn(bundle, "openvino", outcome="failed").write_text('{"backend": "open')
    assert choose(bundle).backend.name == "openvino"


def test_dangling_link_is_no_verdict(bundle):
    folder = bundle.path / "engines" / "somewhere"
    folder.mkdir(parents=True)
    (folder / "verdict-fp32.json").symlink_to(folder / "nothing")
    assert choose(bundle).backend.name == "openvino"


def test_nowhere_to_store_is_said_not_raised(bundle, monkeypatch, tmp_path):
    (bundle.path / "engines").touch()
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "blocked"))
    assert learn(bundle, "onnxruntime") is None


def test_read_only_bundle_keeps_verdicts_in_the_cache(bundle, monkeypatch):
    blocked = bundle.path / "engines"
    blocked.touch()  # a file where the folder would be: even root cannot write there
    path = learn(bundle, "onnxruntime", p50=1.0)
    assert bundle.identity in path.parts and bundle.path not in path.parents
    assert choose(bundle).backend.name == "onnxruntime"


def test_uninstalled_backends_are_passed_over(bundle, monkeypatch):
    import dataclasses

    from cdm_export.runtimes import backends, selection

    absent = dataclasses.replace(backends.BACKENDS["openvino"], library="no_such_library")
    monkeypatch.setitem(selection.BACKENDS, "openvino", absent)
    assert choose(bundle).backend.name == "onnxruntime"


def test_names(bundle):
    assert choose(bundle, "torch").artifact is None
    assert choose(bundle, "onnxruntime", "fp32").backend.name == "onnxruntime"
    with pytest.raises(InputError, match="no fp8 artifact"):
        choose(bundle, precision="fp8")
    with pytest.raises(InputError, match="Did you mean 'openvino'"):
        choose(bundle, "openvno")
