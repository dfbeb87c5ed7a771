"""Every check around a backend is made in one place: what goes in, what comes out, the thread, open or closed."""

import ast
import threading

import numpy as np
import pytest

from cdm_export.runtimes.errors import BundleError, RuntimeMisuse
from cdm_export.runtimes.runtime import CheckedRuntime, Description
from parity_tests.places import ROOT


class Toy:
    """A session that gives whatever it was told to."""

    reuses_outputs = False

    def __init__(self, outputs):
        self.outputs, self.calls, self.closed = outputs, 0, 0

    def run(self, inputs):
        self.calls += 1
        return self.outputs

    def describe(self):
        return Description("toy", "fp32", "CPU", "toy", 1)

    def close(self):
        self.closed += 1


def good(contract):
    return {spec.name: np.zeros(spec.shape, np.float32) for spec in contract.inputs}


def made(contract, **changed):
    return {contract.output.name: np.ones(contract.output.shape, np.float32), **changed}


def test_it_hands_on_what_is_right(contract):
    session = Toy(made(contract))
    runtime = CheckedRuntime(session, contract)
    assert runtime(good(contract)) is session.outputs and runtime.device_stages() == {}
    assert runtime.describe().backend == "toy" and not runtime.reuses_outputs


def test_inputs_that_are_wrong_never_reach_the_backend(contract):
    session = Toy(made(contract))
    runtime = CheckedRuntime(session, contract)
    inputs = good(contract)
    wrong = [
        (None, "arrays by name"),
        ({}, "expected"),
        ({**inputs, "more": inputs["image"]}, "expected"),
        ({**inputs, "image": inputs["image"].tolist()}, "must be a NumPy array"),
        ({**inputs, "image": inputs["image"].astype(np.float64)}, "is float64"),
        ({**inputs, "image": inputs["image"][:, :, :-1]}, r"expected float32 \[1, 3"),
    ]
    for given, words in wrong:
        with pytest.raises(RuntimeMisuse, match=words):
            runtime(given)
    assert session.calls == 0


@pytest.mark.parametrize("change", ["missing", "other name", "half", "another shape", "one frame too many"])
def test_outputs_that_are_wrong_are_never_used(contract, change):
    right = made(contract)[contract.output.name]
    outputs = {
        "missing": {},
        "other name": {"depth": right},
        "half": {contract.output.name: right.astype(np.float16)},
        "another shape": {contract.output.name: right[:, 0]},
        "one frame too many": {contract.output.name: np.concatenate([right, right])},
    }[change]
    with pytest.raises(BundleError, match=r"the backend gave .* for output 'inverse_depth_refined', expected float32"):
        CheckedRuntime(Toy(outputs), contract)(good(contract))


def test_another_thread_and_after_the_end(contract):
    session = Toy(made(contract))
    runtime = CheckedRuntime(session, contract)
    caught = []

    def call():
        with pytest.raises(RuntimeMisuse, match="belongs to the thread") as misuse:
            runtime(good(contract))
        caught.append(misuse)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert caught and session.calls == 0
    runtime.close()
    runtime.close()
    assert session.closed == 1
    for use in (lambda: runtime(good(contract)), runtime.describe):
        with pytest.raises(RuntimeMisuse, match="was closed"):
            use()


def test_a_clock_is_the_session_s(contract):
    class Timed(Toy):
        def device_stages(self):
            return {"engine": 1.5}

    assert CheckedRuntime(Timed(made(contract)), contract).device_stages() == {"engine": 1.5}


def test_no_backend_checks_by_itself():
    """Nobody else raises RuntimeMisuse."""
    for folder in ("runtimes", "cdm_export", "reference_model"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name in ("runtime.py", "errors.py", "__init__.py") or "runtimes/runtimes" in path.as_posix():
                continue
            raised = {
                node.exc.func.id
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and isinstance(node.exc.func, ast.Name)
            }
            assert "RuntimeMisuse" not in raised, path
