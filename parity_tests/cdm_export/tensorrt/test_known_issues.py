"""What the page says is wrong is what states, verdicts, the table of TensorRT's faults and the doctor say."""

import re

import pytest

from cdm_export.doctor import machine
from cdm_export.report import issues
from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import MANIFEST, Bundle, State, Verdict
from cdm_export.runtimes.engine_record import Machine
from cdm_export.runtimes.host import fingerprint
from cdm_export.runtimes.quantization import Dropped
from cdm_export.tensorrt.known_issues import concerning
from parity_tests.engine_bundle import make_bundle


def verdict(backend, outcome, reason):
    return Verdict(
        backend=backend,
        verdict=outcome,
        reason=reason,
        frames=1,
        mean=0.1,
        p99=0.1,
        max=0.1,
        mean_mm=1.0,
        reference="r",
    )


@pytest.fixture
def quiet(monkeypatch):
    """A machine nothing is wrong with."""
    monkeypatch.setattr(issues, "examine", list)


def test_states_say_why(quiet, tmp_path):
    bundle = make_bundle(tmp_path / "x", {"fp16": State.FAILED, "fp16-attn32": State.DROPPED})
    fp32, fp16, third = bundle.manifest.artifacts
    fp16 = fp16.model_copy(update={"verdicts": (verdict("onnxruntime", "failed", "kitchen: p99 9e-03 > 0.005"),)})
    gone = Dropped(name="onnx/int8", reason="onnxruntime int8 takes 80.0 ms a frame", failed=False)
    manifest = bundle.manifest.model_copy(update={"artifacts": (fp32, fp16, third), "dropped": (gone,)})
    (bundle.path / MANIFEST).write_text(manifest.model_dump_json())
    failed, dropped, absent = issues.known_issues(Bundle.open(bundle.path))
    assert failed.subject == "onnx/fp16" and "onnxruntime: kitchen: p99 9e-03 > 0.005" in failed.fault
    assert dropped.subject == "onnx/fp16-attn32" and "not worth having" in dropped.fault
    assert absent.subject == "onnx/int8" and "not in the bundle: onnxruntime int8 takes 80.0 ms" in absent.fault


def test_what_failed_here_is_named(quiet, tmp_path):
    bundle = make_bundle(tmp_path / "x")
    assert issues.known_issues(bundle) == []
    local_results.save(
        bundle,
        local_results.LocalVerdict(
            backend="openvino", precision="fp32", artifact=bundle.manifest.artifacts[0].identity, host=fingerprint(),
            version=BACKENDS["openvino"].version, p50_ms=None,
            verdict=verdict("openvino", "failed", "mean 0.1 > 5e-06"),
        ),
    )  # fmt: skip
    (issue,) = issues.known_issues(bundle)
    assert issue.subject == "openvino fp32" and "mean 0.1 > 5e-06" in issue.fault and "auto" in issue.workaround


def test_faults_of_tensorrt_are_those_a_build_warns_of():
    machine = Machine(backend="tensorrt", version="10.3.0", system="L4T36.4.3", gpu=None)
    (issue,) = issues.tensorrt_faults(machine, {"fp32", "fp16", "bf16"})
    assert issue.subject == "TensorRT 10.3.0, bf16, fp16"
    (warned,) = concerning(machine, "fp16")
    assert warned.fault in issue.fault and warned.source in issue.fault and issue.workaround == warned.workaround
    assert issues.tensorrt_faults(machine.model_copy(update={"version": "10.12.0"}), {"fp16"}) == []


@pytest.mark.parametrize(
    ("features", "status", "words"),
    [
        ({"avx2"}, "missing", "no instructions for BF16, FP16, INT8"),
        ({"avx2", "avx512_vnni"}, "missing", "no instructions for BF16, FP16: .* it has them for INT8"),
        ({"avx512_bf16", "avx512_fp16", "avx512_vnni"}, "ok", "BF16, FP16, INT8"),
    ],
)
def test_doctor_and_page_agree_on_the_processor(tmp_path, monkeypatch, features, status, words):
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(features))
    (finding,) = (one for one in machine.examine() if one.subject == machine.REDUCED_PRECISION)
    assert finding.status == status
    assert re.search(words, finding.detail)
    shown = [issue for issue in issues.known_issues(make_bundle(tmp_path / "x")) if issue.subject == finding.subject]
    assert [issue.fault for issue in shown] == ([] if status == "ok" else [finding.detail])
