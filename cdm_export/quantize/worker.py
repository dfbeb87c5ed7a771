"""The two INT8 graphs of a network, made in a process of its own (``runtimes/isolated.py``).

Calibrate on frames, smooth, search what to quantize (``sensitivity.py``), then write ``int8.onnx`` (the rest FP32, for
CPUs) and ``int8-fp16.onnx`` (the rest typed FP16, for TensorRT) from the same integers and steps.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cdm_export.onnx.worker import MadeGraph, inputs_of, made_graph
from cdm_export.progress import Progress, relay
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.variant import NETWORK, Variant
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.contract import ModelContract, Precision, Record
from cdm_export.runtimes.graph_precision import PrecisionPlan, Rewrite
from cdm_export.runtimes.isolated import report, run_isolated, serve
from cdm_export.runtimes.quantization import CalibrationIdentity, FrameGroup, Quantization

if TYPE_CHECKING:
    from torch import nn

    from cdm_export.quantize.calibration import CalibrationStore
    from cdm_export.quantize.layers import Quantizable
    from cdm_export.quantize.sensitivity import Found, Judge

OPSET_FP16 = 19
"""The first whose QuantizeLinear takes FP16 steps; TensorRT 10.3 reads up to 20."""
_SEARCHED = 4
"""Frames with ranges that trials are made on, evenly spaced. Held-out and verification frames judge all."""


class JobFrame(Record):
    """One frame on disk."""

    name: str
    """In its source."""
    path: str
    """npz with the network's inputs; a verification frame's holds the reference's ``raw_output`` too."""


class Int8Job(Record):
    """What to make."""

    contract: ModelContract
    """GraphInterface and sizes."""
    weights: WeightsSource
    """What is quantized."""
    identity: str
    """sha256 of the weights."""
    source: str
    """Where the frames come from, in the user's words."""
    frames: tuple[JobFrame, ...]
    """To calibrate on."""
    verification: tuple[JobFrame, ...]
    """What the graphs will be verified on."""
    verification_limit: float
    """Share of the gate that the simulation may use on these."""
    refused: dict[str, str] = Field(default_factory=dict)
    """Parts that are not quantized whatever the simulation says, with the reason."""
    folder: str
    """Existing folder that takes ``int8.onnx`` and ``int8-fp16.onnx``."""


class MadeInt8(Record):
    """What was made."""

    graphs: tuple[MadeGraph, ...]
    """``int8`` and ``int8-fp16``."""
    rewrites: dict[str, Rewrite]
    """Exact rewrites."""
    quantization: Quantization
    """Measured and decided."""
    scales: dict[str, tuple[float, ...]]
    """Smoothing that ``quantization.steps`` belong to, per layer; empty when the plain form was better."""


def make_int8(job: Int8Job, progress: Progress) -> MadeInt8:
    """Run the job. Raises ParityError when no choice of parts holds on the frames that judge, InputError for a foreign
    cache.
    """
    what = "PyTorch, quantizing the model,"
    return MadeInt8.model_validate(run_isolated(__name__, job, what, relay(progress)))


def identity_of(job: Int8Job) -> CalibrationIdentity:
    """What the calibration of a job depends on."""
    from cdm_export.quantize.calibration import PROCEDURE, split

    def digest_of(frame: JobFrame) -> str:
        digest = hashlib.sha256()
        for array in inputs_of(frame.path, job.contract).values():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    digests = [digest_of(frame) for frame in job.frames]
    ranged, held_out = split(len(digests))
    return CalibrationIdentity(
        weights=job.identity,
        frames=tuple(digests[index] for index in ranged),
        held_out=tuple(digests[index] for index in held_out),
        verification=tuple(digest_of(frame) for frame in job.verification),
        processing=hashlib.sha256(job.contract.model_dump_json().encode()).hexdigest(),
        procedure=PROCEDURE,
    )


def _work(text: str) -> MadeInt8:
    from cdm_export.quantize.calibration import CalibrationStore
    from cdm_export.quantize.layers import groups, quantizable, step_of
    from cdm_export.reference_model.reference import exact_float32
    from cdm_export.transforms import specialize_for

    job = Int8Job.model_validate_json(text)
    contract, variant = job.contract, get_variant(job.contract.model)
    exact_float32()
    report({"stage": "quantizing: weights", "steps": 0})
    exportable = job.weights.exportable(contract)
    savings = specialize_for(contract, exportable, exclude=("linear_layout",))
    network = exportable.get_submodule(NETWORK)
    layers = quantizable(network, variant)
    parts = groups(network, layers, variant)
    store = CalibrationStore(identity_of(job))
    if store.resumed:
        report({"note": f"calibration goes on from {store.path} ({len(store.found.trials)} trials known)"})
    session = _Session(job, exportable, layers, store)
    session.calibrate()
    forms = {
        form: {
            observer: {path: step_of(bound) for path, bound in bounds.items()} for observer, bounds in observed.items()
        }
        for form, observed in (("plain", store.found.plain), ("smoothed", store.found.smoothed))
    }
    found = session.search(forms, parts)
    precision_plan, excluded = session.precision_plan(found.form, variant)
    excluded |= found.reasons
    out = {path for part in found.excluded for path in parts[part]} | set(excluded)
    steps = {path: step for path, step in forms[found.form][found.observer].items() if path not in out}
    left = [layer.weight.numel() for path, layer in layers.items() if path in out]
    graphs = _write(exportable, {path: layers[path] for path in steps}, steps, precision_plan, job)
    return MadeInt8(
        graphs=graphs,
        rewrites={name: Rewrite.model_validate(vars(saving)) for name, saving in savings.items()},
        quantization=Quantization(
            calibration=store.found.identity,
            source=job.source,
            observer=found.observer,
            smoothed=found.form == "smoothed",
            strengths=store.found.strengths if found.form == "smoothed" else {},
            steps=steps,
            excluded=excluded,
            trials=found.trials,
            sensitivity=found.sensitivity,
            excluded_megabytes=round(3 * sum(left) / 1e6, 3),
            judgments=found.judgments,
        ),
        scales=store.found.scales if found.form == "smoothed" else {},
    )


class _Session:
    """One network at work; it is in the smoothed form or in the plain one."""

    def __init__(
        self, job: Int8Job, exportable: "nn.Module", layers: "Mapping[str, Quantizable]", store: "CalibrationStore"
    ) -> None:
        from cdm_export.quantize.calibration import split

        self._job = job
        self._exportable = exportable
        self._layers = layers
        self._store = store
        self._form = "plain"
        self._policy = get_variant(job.contract.model).quantization
        ranged, held_out = ([job.frames[index] for index in indices] for indices in split(len(job.frames)))
        self._ranged = ranged
        chosen = np.linspace(0, len(ranged) - 1, min(_SEARCHED, len(ranged))).round().astype(int)
        self._searched = [ranged[index] for index in chosen]
        self._judging = {
            FrameGroup.CALIBRATION: self._searched,
            FrameGroup.HELD_OUT: held_out,
            FrameGroup.VERIFICATION: list(job.verification),
        }

    def calibrate(self) -> None:
        """Bounds before smoothing, scales, bounds after; what is known already is not measured again."""
        from cdm_export.quantize.smoothquant import choose_scales, smoothable

        network = self._exportable.get_submodule(NETWORK)
        targets = {target.path: target for target in smoothable(network, self._policy) if target.path in self._layers}
        if not self._store.found.scales:
            gathered = self._gather("ranges of every layer", targets)
            strengths, scales = {}, {}
            import torch

            for path, target in targets.items():
                seen = gathered[path]
                assert seen.largest is not None
                strengths[path], chosen = choose_scales(target.layer, seen.largest, torch.cat(seen.rows))
                scales[path] = tuple(chosen.tolist())
            self._store.add(plain=self._bounds(gathered), strengths=strengths, scales=scales)
        if not self._store.found.smoothed:
            self._become("smoothed")
            self._store.add(smoothed=self._bounds(self._gather("ranges after smoothing", {})))

    def _gather(self, title: str, targets: Mapping[str, object]) -> Any:
        from cdm_export.quantize.collect_ranges import gather

        report({"stage": f"quantizing: {title}", "steps": len(self._ranged)})
        return gather(self._layers, targets, [partial(self._forward, frame) for frame in self._ranged])

    def _bounds(self, gathered: Any) -> dict[str, dict[str, float]]:
        from cdm_export.quantize.observers import OBSERVERS

        return {
            name: {path: observe(seen.histogram) for path, seen in gathered.items()}
            for name, observe in OBSERVERS.items()
        }

    def search(self, forms: Any, parts: Mapping[str, Sequence[str]]) -> "Found":
        """See ``sensitivity.py``."""
        from cdm_export.quantize.sensitivity import planned, search

        judges = self._judges()
        report({"stage": "quantizing: which parts bear it", "steps": planned(parts)})
        return search(
            forms,
            parts,
            judges,
            self._job.contract,
            self._simulate,
            self._store,
            lambda: report({"step": "trial"}),
            lambda name, steps: report({"stage": f"quantizing: {name}", "steps": steps}),
            self._job.refused,
        )

    def _judges(self) -> "list[Judge]":
        """The frames that have to hold, with the reference's output: here of the calibration frames alone."""
        from cdm_export.parity.golden import load_reference
        from cdm_export.quantize.sensitivity import AIM, Judge

        seen = {group: frames for group, frames in self._judging.items() if frames}
        made = [frame for group, frames in seen.items() if group is not FrameGroup.VERIFICATION for frame in frames]
        report({"stage": "quantizing: PyTorch on the frames of the search", "steps": len(made)})
        judges = []
        for group, frames in seen.items():
            verifies = group is FrameGroup.VERIFICATION
            outputs = [
                load_reference(Path(frame.path))["raw_output"] if verifies else self._forward(frame) for frame in frames
            ]
            limit = self._job.verification_limit if verifies else AIM
            judges.append(Judge(group, tuple(frame.name for frame in frames), outputs, limit))
        return judges

    def _simulate(
        self, form: str, steps: Mapping[str, float], group: FrameGroup, frames: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        from cdm_export.quantize.fake_quant import quantized

        self._become(form)
        with quantized({path: self._layers[path] for path in steps}, steps):
            return [self._run(self._judging[group][index]) for index in frames]

    def precision_plan(self, form: str, variant: Variant) -> "tuple[PrecisionPlan, dict[str, str]]":
        """Islands of the FP16 counterpart in the form that was chosen, and the layers that these keep out of INT8."""
        from cdm_export.precision.plan import plan
        from cdm_export.precision.range_scan import RangeScan

        self._become(form)
        network = self._exportable.get_submodule(NETWORK)
        if not self._store.found.max_abs:
            frames = self._searched
            report({"stage": "quantizing: ranges of every module", "steps": len(frames)})
            with RangeScan() as scan:
                for frame in frames:
                    self._forward(frame)
            self._store.add(max_abs={path: peak if np.isfinite(peak) else None for path, peak in scan.max_abs.items()})
        max_abs = {path: float("nan") if peak is None else peak for path, peak in self._store.found.max_abs.items()}
        precision_plan = plan(network, max_abs, variant.precision, "fp16")
        reasons = {path: precision_plan.reason(path) for path in self._layers if precision_plan.computes_in_fp32(path)}
        return precision_plan, {path: f"FP32 in the FP16 counterpart: {reason}" for path, reason in reasons.items()}

    def _become(self, form: str) -> None:
        """Folding moves powers of two, so that going back is exact."""
        from cdm_export.quantize.smoothquant import fold_all

        if form == self._form:
            return
        scales = self._store.found.scales
        if form == "plain":
            scales = {path: tuple(1 / scale for scale in chosen) for path, chosen in scales.items()}
        fold_all(self._exportable.get_submodule(NETWORK), self._policy, scales)
        self._form = form

    def _forward(self, frame: JobFrame) -> NDArray[np.float32]:
        raw = self._run(frame)
        report({"step": frame.path})
        return raw

    def _run(self, frame: JobFrame) -> NDArray[np.float32]:
        from cdm_export.reference_model.reference import run_reference

        contract = self._job.contract
        return run_reference(self._exportable, contract, inputs_of(frame.path, contract))[contract.output.name]


def _write(
    exportable: "nn.Module",
    layers: "Mapping[str, Quantizable]",
    steps: Mapping[str, float],
    precision_plan: PrecisionPlan,
    job: Int8Job,
) -> tuple[MadeGraph, ...]:
    """Both graphs; the network is typed in place for the second."""
    from cdm_export.onnx.audit import audit
    from cdm_export.onnx.convert import OPSET, export_onnx
    from cdm_export.precision.typed_modules import type_network
    from cdm_export.quantize.check_qdq import check_rules
    from cdm_export.quantize.insert_qdq import insert_pairs, integer_weights
    from cdm_export.transforms import linear_layout

    weights = integer_weights(layers)
    network = exportable.get_submodule(NETWORK)
    linear_layout.apply(network, job.contract.network)
    insert = partial(insert_pairs, steps=steps, weights=weights)
    graphs = []
    counterparts: tuple[tuple[Precision, int, PrecisionPlan | None], ...] = (
        ("int8", OPSET, None),
        ("int8-fp16", OPSET_FP16, precision_plan),
    )
    for precision, opset, typed in counterparts:
        report({"stage": f"export to ONNX, {precision}", "steps": 0})
        if typed is not None:
            typed = type_network(exportable, typed, job.contract)
        path = Path(job.folder) / f"{precision}.onnx"
        versions = export_onnx(exportable, job.contract, path, opset=opset, change=insert)
        check_rules(path, steps)
        graphs.append(made_graph(precision, opset, path, versions, typed, audit(path, typed)))
    return tuple(graphs)


if __name__ == "__main__":
    serve(_work)
