"""Which parts stay out of INT8: the search against a network whose parts cost what the test says, and its memory."""

import numpy as np
import pytest

from cdm_export.quantize.calibration import Calibration, CalibrationStore
from cdm_export.quantize.observers import OBSERVERS
from cdm_export.quantize.sensitivity import AIM, planned, search
from cdm_export.runtimes.errors import InputError, ParityError
from cdm_export.runtimes.quantization import CalibrationIdentity

IDENTITY = CalibrationIdentity(weights="w", frames=("f",), processing="p", procedure=1)
PARTS = {f"blocks.{index}": (f"blocks.{index}.fc1", f"blocks.{index}.fc2") for index in range(8)}
FORMS = {
    form: {name: {path: 0.1 for paths in PARTS.values() for path in paths} for name in OBSERVERS}
    for form in ("plain", "smoothed")
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path))
    return CalibrationStore(IDENTITY)


class Network:
    """Relative depth error: the sum of what the quantized layers cost, less in the smoothed form."""

    def __init__(self, contract, costs):
        height, width = contract.outputs[0].shape[-2:]
        self.reference = np.full((1, 1, height, width), 0.5, np.float32)
        self.costs = costs
        self.calls = []

    def __call__(self, form, steps, count):
        self.calls.append((form, len(steps)))
        error = sum(self.costs.get(path.rpartition(".")[0], 1e-5) for path in steps) * (1 if form == "plain" else 0.5)
        return [self.reference / np.float32(1 + error)]


def find(network, store, contract):
    trials = []
    found = search(FORMS, PARTS, [network.reference], contract, network, store, lambda: trials.append(1))
    return found, len(trials)


def test_all_parts_stay_in_when_the_whole_holds(contract, store):
    network = Network(contract, {})
    found, trials = find(network, store, contract)
    assert found.excluded == () and found.form == "smoothed"
    assert trials <= planned(PARTS) and len(found.trials) == 6 and set(found.sensitivity) == set(PARTS)


def test_the_worst_are_kept_out_and_no_more(contract, store):
    network = Network(contract, {"blocks.2": 0.02, "blocks.5": 0.006, "blocks.6": 0.0005})
    found, trials = find(network, store, contract)
    # Each part has two layers; half of everything in the smoothed form: 20, 6, 0.5 and 0.05 thousandths.
    assert found.excluded == ("blocks.2",), "6.5 thousandths are within the aim of 7"
    assert list(found.sensitivity)[:3] == ["blocks.2", "blocks.5", "blocks.6"]
    assert trials <= planned(PARTS)
    worst = found.sensitivity["blocks.2"]
    assert worst.mean == pytest.approx(0.02, rel=1e-2) and worst.share_of_gate == pytest.approx(2, rel=1e-2)


def test_what_cannot_hold_is_a_clear_verdict(contract, store):
    network = Network(contract, dict.fromkeys(PARTS, 0.05))
    with pytest.raises(ParityError, match=rf"4 of 8 parts are not quantized: .* at most {AIM:g} is wanted"):
        find(network, store, contract)


def test_nothing_is_simulated_twice(contract, store, tmp_path):
    costs = {"blocks.1": 0.03}

    class Stopped(Network):
        def __call__(self, form, steps, count):
            if len(self.calls) == 9:
                raise KeyboardInterrupt
            return super().__call__(form, steps, count)

    stopped = Stopped(contract, costs)
    with pytest.raises(KeyboardInterrupt):
        find(stopped, store, contract)
    again, network = CalibrationStore(IDENTITY), Network(contract, costs)
    assert again.resumed and len(again.found.trials) == 9
    found, trials = find(network, again, contract)
    assert found.excluded == ("blocks.1",) and len(network.calls) == trials - 9
    whole = Network(contract, costs)
    find(whole, CalibrationStore(IDENTITY), contract)
    assert whole.calls == []


@pytest.mark.parametrize("field", ["weights", "frames", "processing", "procedure"])
def test_a_cache_of_something_else_is_refused(store, field):
    other = {"weights": "x", "frames": ("g",), "processing": "q", "procedure": 2}[field]
    foreign = Calibration(identity=IDENTITY.model_copy(update={field: other}))
    store.path.parent.mkdir(parents=True)
    store.path.write_text(foreign.model_dump_json())
    with pytest.raises(InputError, match=f"is of other {field}: expected") as told:
        CalibrationStore(IDENTITY)
    assert f"rm {store.path}" in told.value.next_step


def test_a_cut_cache_is_refused(store):
    store.add(strengths={"blocks.0.fc1": 0.5})
    store.path.write_bytes(store.path.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        CalibrationStore(IDENTITY)


def test_each_identity_has_a_file_of_its_own(store):
    store.add(strengths={"a": 0.5})
    other = CalibrationStore(IDENTITY.model_copy(update={"weights": "x"}))
    assert other.path != store.path and not other.resumed
