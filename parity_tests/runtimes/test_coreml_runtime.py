"""The backend for a Mac: which compute units it takes and what it remembers; on a Mac, that it really runs."""

import json
import platform

import numpy as np
import pytest

from cdm_export.parity.image_input import image_contract
from cdm_export.runtimes import coreml
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.contract import CONTRACT_KEY
from cdm_export.runtimes.coreml import Attempt, CoreMl, TryJob, load
from cdm_export.runtimes.errors import BackendCrashed, BackendUnavailable, BundleError

TIMES = {"CPU_AND_NE": 9.0, "CPU_AND_GPU": 4.0, "CPU_ONLY": 30.0}


class FakeMac:
    """A Mac as far as this module sees one: a compiler, compute units with a time or a way to die, and models."""

    def __init__(self, monkeypatch, tmp_path, contract):
        self.times = dict(TIMES)
        self.dies, self.refuses = {}, set()
        self.tried, self.opened = [], []
        self.contract = contract
        self.package = tmp_path / "fp16.mlpackage"
        self.package.mkdir()
        (self.package / "Manifest.json").write_text("{}")
        monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(platform, "system", lambda: "Darwin")
        monkeypatch.setattr(platform, "mac_ver", lambda: ("15.3", ("", "", ""), "arm64"))
        monkeypatch.setattr(coreml, "_check_package", lambda path, contract: None)
        monkeypatch.setattr(coreml, "_compiled", lambda path, target: target)
        monkeypatch.setattr(coreml, "run_isolated", self.child)
        monkeypatch.setattr(coreml, "open_compiled", self.open)

    def child(self, module, job, what, on_message):
        assert module == "cdm_export.runtimes.coreml" and isinstance(job, TryJob)
        self.tried.append(job.units)
        if job.units in self.dies:
            raise BackendCrashed(f"{what} {self.dies[job.units]}")
        return {"units": job.units, "p50_ms": self.times[job.units], "failure": "", "residency": {"GPU": 7}}

    def open(self, compiled, units):
        self.opened.append(units)
        if units in self.refuses:
            raise RuntimeError("no such device")
        return self

    def predict(self, inputs):
        self.fed = inputs
        return {"inverse_depth_refined": np.full(self.contract.output.shape, 0.5, np.float64)}

    def load(self) -> CoreMl:
        return load(self.package, self.contract, BACKENDS["coreml"], "fp16", 0)


@pytest.fixture
def mac(monkeypatch, tmp_path, contract):
    return FakeMac(monkeypatch, tmp_path, contract)


def inputs(contract):
    return {spec.name: np.zeros(spec.shape, spec.dtype) for spec in contract.inputs}


def test_the_fastest_that_works_is_taken(mac):
    runtime = mac.load()
    assert mac.tried == ["CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"] and mac.opened == ["CPU_AND_GPU"]
    description = runtime.describe()
    assert (description.provider, description.executed["residency"]) == ("CPU_AND_GPU", {"GPU": 7})
    output = runtime.run(inputs(mac.contract))["inverse_depth_refined"]
    assert output.dtype == np.float32 and output.shape == mac.contract.output.shape
    runtime.close()
    runtime.close()


def test_an_8_bit_image_goes_in_as_a_picture(mac):
    """coremltools takes nothing else for Core ML's image type: PIL, RGB."""
    mac.contract = image_contract(mac.contract)
    given = inputs(mac.contract)
    given["image"][:] = np.random.default_rng(0).integers(0, 256, given["image"].shape)
    mac.load().run(given)
    picture = mac.fed["image"]
    assert (picture.mode, picture.size) == ("RGB", mac.contract.network)
    np.testing.assert_array_equal(np.asarray(picture), given["image"][0].transpose(1, 2, 0))
    assert mac.fed["inverse_depth"] is given["inverse_depth"]


def test_what_kills_a_process_kills_only_the_child_and_is_kept(mac):
    mac.dies = {"CPU_AND_NE": "was killed by SIGKILL", "CPU_AND_GPU": "was killed by SIGABRT"}
    attempts = mac.load().describe().executed["attempts"]
    assert mac.opened == ["CPU_ONLY"]
    assert [(one["units"], one["p50_ms"]) for one in attempts] == [
        ("CPU_AND_NE", None), ("CPU_AND_GPU", None), ("CPU_ONLY", 30.0),
    ]  # fmt: skip
    assert "SIGKILL" in attempts[0]["failure"] and "SIGABRT" in attempts[1]["failure"]


def test_measured_once_per_package_machine_and_system(mac, monkeypatch):
    mac.load()
    mac.load()
    assert len(mac.tried) == 3
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.4", ("", "", ""), "arm64"))
    mac.load()
    assert len(mac.tried) == 6
    (mac.package / "Manifest.json").write_text("{ }")
    mac.load()
    assert len(mac.tried) == 9


def test_a_damaged_memory_is_measured_again(mac, tmp_path):
    mac.load()
    (memory,) = (tmp_path / "cache" / "coreml").glob("*/units-*.json")
    assert json.loads(memory.read_text())["attempts"][0]["units"] == "CPU_AND_NE"
    memory.write_text("{")
    mac.load()
    assert len(mac.tried) == 6


def test_units_that_will_not_open_give_way_to_the_next(mac):
    mac.refuses = {"CPU_AND_GPU"}
    assert mac.load().describe().provider == "CPU_AND_NE"
    mac.refuses = set(TIMES)
    with pytest.raises(BackendUnavailable, match="CPU_AND_GPU: no such device; CPU_AND_NE: no such device"):
        mac.load()


def test_nothing_works(mac):
    mac.dies = dict.fromkeys(TIMES, "was killed by SIGKILL")
    with pytest.raises(BackendUnavailable, match=r"runs fp16\.mlpackage on no compute units") as raised:
        mac.load()
    assert "--backend onnxruntime" in raised.value.next_step


def test_a_failure_is_never_first():
    failed = Attempt(units="CPU_AND_NE", p50_ms=None, failure="died", residency={})
    slow = Attempt(units="CPU_ONLY", p50_ms=30.0, failure="", residency={})
    quick = Attempt(units="CPU_AND_GPU", p50_ms=4.0, failure="", residency={})
    kept = coreml.Attempts(package="p", host="h", version="v", attempts=(failed, slow, quick))
    assert kept.order() == ["CPU_AND_GPU", "CPU_ONLY"]


def saved(tmp_path, contract, target="macOS15"):
    """A package that does next to nothing, with a contract inside."""
    pytest.importorskip("coremltools")
    from cdm_export.coreml.convert import import_coremltools, save

    ct = import_coremltools()
    from coremltools.converters.mil import Builder

    @Builder.program(
        input_specs=[Builder.TensorSpec(shape=(1, 3))], opset_version=getattr(ct.target, target)
    )  # fmt: skip
    def program(x):
        return Builder.relu(x=x, name="y")

    model = ct.convert(program, minimum_deployment_target=getattr(ct.target, target), skip_model_load=True)
    model.user_defined_metadata[CONTRACT_KEY] = contract.model_dump_json()
    save(model, tmp_path / "it.mlpackage")
    return tmp_path / "it.mlpackage"


def test_a_package_for_a_newer_system(tmp_path, contract, monkeypatch):
    package = saved(tmp_path, contract)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.6", ("", "", ""), "arm64"))
    with pytest.raises(BackendUnavailable, match=r"made for macos15, this is macOS 14\.6") as raised:
        coreml._check_package(package, contract)
    assert raised.value.next_step == "Export it again with --coreml-target macos14."
    monkeypatch.setattr(platform, "mac_ver", lambda: ("26.0", ("", "", ""), "arm64"))
    coreml._check_package(package, contract)
    with pytest.raises(BundleError, match="made for another contract"):
        coreml._check_package(package, contract.model_copy(update={"far": 7.0}))


@pytest.mark.mac
def test_a_real_mac_passes_the_gate(tmp_path):
    """The whole road on the device itself: export, verify with every set of compute units that works, run."""
    pytest.importorskip("coremltools")
    if platform.system() != "Darwin":
        pytest.skip("not a Mac")
    from parity_tests.conftest import cli

    out = tmp_path / "mac.bundle"
    done = cli(
        "export", "--model", "cdm-vitt", "--camera", "160x120", "--input-size", 98, "--fit", "--target", "onnx,coreml",
        "--coreml-input", "image", "-o", out, "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = cli("verify", out, "--backend", "coreml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    parities = json.loads(done.stdout)["parity"]
    assert {parity["precision"] for parity in parities} == {"fp32", "fp16", "fp16-image"}
    for parity in parities:
        attempts = parity["description"]["executed"]["attempts"]
        assert [attempt["units"] for attempt in attempts] == list(coreml.UNITS)
        assert sum(parity["description"]["executed"]["residency"].values()) > 100
        assert parity["latency"]["p50"] > 0
