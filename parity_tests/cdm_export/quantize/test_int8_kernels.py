"""A graph whose kernels are further off than the simulation is searched again or dropped, never published as failed."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from cdm_export.progress import Silent
from cdm_export.quantize import exporter
from cdm_export.quantize.kernels import KERNEL_AIM, KernelCosts, by_part, keep_pairs
from cdm_export.quantize.sensitivity import VERIFICATION_AIM
from cdm_export.quantize.worker import Int8Job, JobFrame
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.contract import ErrorClass
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.quantization import FrameGroup, Judgment, Trial


def parity(share, backend="onnxruntime"):
    """Of one backend: its verdict, and one frame that uses ``share`` of the gate; None: nothing was comparable."""
    depth = SimpleNamespace(mean=None if share is None else share * 1e-2, p99=1e-4)
    frame = SimpleNamespace(
        depth=depth, verdict="passed", network=SimpleNamespace(non_finite=0), mask_disagreement=0.0,
        error_class=ErrorClass.RELATIVE,
    )  # fmt: skip
    return SimpleNamespace(
        backend=backend, verdict=SimpleNamespace(passed=share is not None and share <= 1), frames=(frame,)
    )


@pytest.mark.parametrize(
    ("shares", "any_passes", "over"),
    [
        ([0.5, 0.9], True, 0),
        ([0.5, 1.4], True, 0),
        ([1.3, 1.4], True, 1.3),
        ([1.3, 1.4], False, 1.4),
        ([0.5, 1.2], False, 1.2),
        ([None, None], True, 0),
        ([], True, 0),
    ],
)
def test_what_fails_by_how_much(shares, any_passes, over):
    assert exporter.overshoot(list(map(parity, shares)), any_passes=any_passes) == pytest.approx(over)


class Exports:
    """``make_int8``, the check and the kernels: each part costs what ``kernels`` says, ``fp16`` times the simulation
    on the device. The simulation is as good as it is allowed to be.
    """

    def __init__(self, kernels, fp16=1.0, least=0.0):
        self.kernels, self.fp16, self.least = kernels, fp16, least
        self.jobs, self.asked = [], []

    def make(self, job, progress):
        if job.verification_limit < self.least:
            raise ParityError("int8 misses its gate")
        self.jobs.append(job)
        limit = job.verification_limit
        trial = Trial(mean=limit / 100, p99=0, share_of_gate=limit, worst=0)
        judgment = Judgment(group=FrameGroup.VERIFICATION, frames=("a",), limit=limit, found=trial)
        quantization = SimpleNamespace(
            judgments=(judgment,),
            sensitivity=dict.fromkeys(self.kernels, trial),
            excluded=job.refused,
            steps={f"{part}.fc1": 0.1 for part in self.kernels if part not in job.refused},
        )
        graphs = (SimpleNamespace(files=("int8.onnx",)), SimpleNamespace(files=("int8-fp16.onnx",)))
        return SimpleNamespace(graphs=graphs, quantization=quantization)

    def check(self, graph, precision):
        assert graph.files == (f"{precision}.onnx",)
        if precision == "int8-fp16":
            return [parity(self.jobs[-1].verification_limit * self.fp16)]
        share = sum(cost for part, cost in self.kernels.items() if part not in self.jobs[-1].refused)
        return [parity(share + 0.2, "openvino"), parity(share, "onnxruntime")]

    def costs(self, job, progress):
        self.asked.append(job)
        ranked = sorted(job.parts, key=lambda part: -self.kernels[part])
        count = 1
        while count < job.most and sum(self.kernels[part] for part in ranked[count:]) > KERNEL_AIM:
            count += 1
        left = sum(self.kernels[part] for part in ranked[count:])
        return KernelCosts(
            alone={part: self.kernels[part] for part in ranked}, excluded=tuple(ranked[:count]), left=left
        )


@pytest.fixture
def searched(monkeypatch, contract):
    def search(exports):
        monkeypatch.setattr(exporter, "make_int8", exports.make)
        monkeypatch.setattr(exporter, "kernel_costs", exports.costs)
        job = Int8Job(
            contract=contract, weights=WeightsSource(checkpoint="w"), identity="w", source="s", frames=(),
            verification=(JobFrame(name="a", path="a.npz"),), verification_limit=VERIFICATION_AIM, folder="f",
        )  # fmt: skip
        progress = Silent()
        return exporter._make_and_check(job, exports, progress), progress

    return search


PARTS = {f"blocks.{index}": 0.01 for index in range(8)}


def test_kernels_that_hold_need_one_search(searched):
    _, progress = searched(exports := Exports(PARTS))
    assert len(exports.jobs) == 1 and exports.asked == [] and progress.notes == []


def test_parts_that_kernels_round_coarsely_are_refused(searched):
    """The block that saturates, not the ones that the simulation finds sensitive."""
    (_, on_cpu, _), progress = searched(exports := Exports({**PARTS, "blocks.2": 0.6, "blocks.5": 0.9}))
    assert on_cpu[1].verdict.passed
    assert list(exports.jobs[1].refused) == ["blocks.5"]
    assert exports.jobs[1].refused["blocks.5"] == (
        "alone it costs 0.90 of the gate in onnxruntime's kernels on verification frame a"
    )
    asked = exports.asked[0]
    assert asked.backend == "onnxruntime" and asked.most == 4 and asked.parts["blocks.5"] == ("blocks.5.fc1",)
    assert "1.56 of its gate on verification frames in the kernels, 0.80 in the simulation" in progress.notes[0]


def test_kernels_that_no_choice_satisfies_end_in_both_figures(searched):
    with pytest.raises(ParityError, match=r"in the kernels, 0\.80 in the simulation; with 4 of 8 parts not quantized"):
        searched(Exports(dict.fromkeys(PARTS, 1.0)))


def test_what_fp16_adds_is_left_room(searched):
    (_, _, on_device), _ = searched(exports := Exports(PARTS, fp16=1.6))
    assert on_device[0].verdict.passed and exports.asked == []
    assert exports.jobs[1].verification_limit * 1.6 == pytest.approx(0.95)
    with pytest.raises(ParityError, match="misses its gate"):
        searched(Exports(PARTS, fp16=1.6, least=0.7))


def test_it_ends(searched, monkeypatch):
    exports = Exports(PARTS)
    monkeypatch.setattr(exports, "check", lambda graph, precision: [parity(1.5)])
    with pytest.raises(ParityError, match=r"1\.50 of its gate .* 0\.\d\d in the simulation.*after 4 searches"):
        searched(exports)


def test_layers_by_part():
    assert by_part(["a.b.fc1", "a.b.fc2", "a.bc", "c"], ["a.b", "a.bc", "a"]) == {
        "a.b": ("a.b.fc1", "a.b.fc2"),
        "a.bc": ("a.bc",),
    }


def test_pairs_are_bypassed_and_nothing_else():
    """Two products with Q/DQ pairs: without both, what is left is the product in floats of the rounded weights."""
    weights = np.array([[3, -2], [1, 4]], np.int8)
    constants = [
        numpy_helper.from_array(np.array(step, np.float32), f"{path}.step") for path, step in (("a", 0.5), ("b", 0.25))
    ]
    constants += [numpy_helper.from_array(np.array(0, np.int8), "zero"), numpy_helper.from_array(weights, "integers")]
    nodes, last = [], "x"
    for path in ("a", "b"):
        nodes += [
            helper.make_node("QuantizeLinear", [last, f"{path}.step", "zero"], [f"{path}.quantized"]),
            helper.make_node("DequantizeLinear", [f"{path}.quantized", f"{path}.step", "zero"], [f"{path}.restored"]),
            helper.make_node("DequantizeLinear", ["integers", "a.step", "zero"], [f"{path}.weight"]),
            helper.make_node("MatMul", [f"{path}.restored", f"{path}.weight"], [f"{path}.out"]),
        ]
        last = f"{path}.out"

    def run(kept):
        graph = helper.make_graph(
            list(keep_pairs(nodes, kept)),
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])],
            [helper.make_tensor_value_info("b.out", onnx.TensorProto.FLOAT, [1, 2])],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": np.array([[0.6, 1.3]], np.float32)})[0]

    exact = np.array([[0.6, 1.3]]) @ (weights * 0.5) @ (weights * 0.5)
    rounded = np.array([[0.5, 1.5]]) @ (weights * 0.5) @ (weights * 0.5)
    assert run({"a", "b"}) == pytest.approx(rounded, abs=1e-5)
    assert run({"a"}) == pytest.approx(rounded, abs=1e-5)
    assert run(()) == pytest.approx(exact, abs=1e-5)
