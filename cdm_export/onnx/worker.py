"""Everything of an export that needs PyTorch, in a process of its own (``runtimes/isolated.py``).

Reference outputs first, then the rewrites in place, then one ONNX file after another: the large model exists once, and
all its memory is returned before the first backend verifies. Freeing it inside one process left 1.1 x the weights in
the allocator.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdm_export import publish
from cdm_export.onnx.batch import export_batch
from cdm_export.onnx.convert import OPSET, OPSET_BF16, export_onnx
from cdm_export.parity.golden import load_reference, save_output
from cdm_export.progress import Progress, relay
from cdm_export.reference_model.registry import get_variant, package_of
from cdm_export.reference_model.variant import NETWORK, Variant
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.bundle import Artifact, Provenance, State, Verdict
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.checkpoint_path import with_key
from cdm_export.runtimes.contract import ModelContract, Precision, Record, execution_name
from cdm_export.runtimes.graph_precision import GraphAudit, LowPrecision, PrecisionPlan, Rewrite
from cdm_export.runtimes.isolated import report, run_isolated, serve
from cdm_export.runtimes.quantization import Quantization

if TYPE_CHECKING:
    from torch import nn


class MakeJob(Record):
    """What to make."""

    contract: ModelContract
    """Model, sizes and channel order."""
    weights: WeightsSource
    """A checkpoint, or a seed."""
    frames: tuple[str, ...]
    """npz files with the network's inputs; the reference's output is added to them."""
    more_frames: tuple[str, ...]
    """The same, of another interface: they get the reference's output, and nothing is measured on them."""
    low_precisions: tuple[LowPrecision, ...]
    """What to make beside FP32."""
    batch: int
    """Frames at once of a second FP32 and a second FP16 graph; 1 makes none."""
    folder: str
    """Existing folder that takes ``PRECISION.onnx``."""
    outputs: str
    """Existing folder that takes ``torch-PRECISION-INDEX.npy``: raw outputs of the typed networks in PyTorch."""


class MadeGraph(Record):
    """One ONNX file."""

    precision: Precision
    """Of the graph."""
    batch: int = 1
    """Frames that go in at once."""
    opset: int
    """ONNX operator set."""
    files: tuple[str, ...]
    """File names in the folder, the graph first."""
    versions: dict[str, str]
    """Libraries that made it."""
    precision_plan: PrecisionPlan | None
    """How it was typed; None for FP32."""
    graph: GraphAudit
    """What came out."""

    def artifact(
        self,
        folder: Path,
        rewrites: dict[str, Rewrite],
        state: State,
        verdicts: Iterable[Verdict],
        quantization: Quantization | None = None,
    ) -> Artifact:
        """For the manifest of the bundle in ``folder``."""
        return Artifact(
            name=f"onnx/{execution_name(self.precision, self.batch)}",
            format="onnx",
            precision=self.precision,
            batch=self.batch,
            opset=self.opset,
            main=f"onnx/{self.files[0]}",
            files=tuple(publish.record(folder, folder / "onnx" / name) for name in self.files),
            producers=self.versions,
            rewrites=rewrites,
            precision_plan=self.precision_plan,
            graph=self.graph,
            quantization=quantization,
            state=state,
            verdicts=tuple(verdicts),
        )


class Made(Record):
    """What was made."""

    provenance: Provenance
    """Where the weights came from."""
    rewrites: dict[str, Rewrite]
    """Exact rewrites, and what each saved."""
    graphs: tuple[MadeGraph, ...]
    """In order of making, FP32 first, those for a batch last."""
    max_abs: dict[str, float | None]
    """Largest magnitude per module over all frames; empty when nothing was typed, None where it was not a number."""


def make_onnx(job: MakeJob, progress: Progress) -> Made:
    """Run the job. Raises CheckpointError for a checkpoint that cannot be used."""
    what = "PyTorch, exporting the model,"
    return Made.model_validate(run_isolated(__name__, job, what, relay(progress)))


def _work(text: str) -> Made:
    from cdm_export.reference_model.reference import exact_float32, run_reference

    job = MakeJob.model_validate_json(text)
    contract = job.contract
    variant = get_variant(contract.model)
    exact_float32()
    network, provenance = _load(job, variant)
    exportable = variant.exportable(network, contract.channel_order).eval()
    frames = (*job.frames, *job.more_frames)
    report({"stage": f"reference: eager PyTorch at {contract.network}", "steps": len(frames)})
    for frame in frames:
        inputs = inputs_of(frame, contract)
        raw = run_reference(exportable, contract, inputs)[contract.output.name]
        amplifies = variant.iterations is not None and provenance.random_weights is not None
        rounded = _rounded(exportable, job, inputs) if amplifies else {}
        save_output(Path(frame), Path(frame), contract, raw, rounded)
        report({"step": frame})
    rewrites = _specialize(exportable, contract)
    max_abs: dict[str, float] = {}
    if "fp16" in job.low_precisions:
        max_abs = _scan(exportable, job)
    graphs = [_fp32(exportable, job)]
    batches = _batch(exportable, graphs[0], job)
    for precision in job.low_precisions:
        if len(graphs) > 1:  # precision_plan is in place: the network is made again from its weights
            exportable = job.weights.made(provenance).exportable(contract)
            _specialize(exportable, contract)
        made = _low(exportable, variant, max_abs, precision, job)
        graphs += made
        batches += _batch(exportable, made[0], job)
    return Made(
        provenance=provenance,
        rewrites=rewrites,
        graphs=(*graphs, *batches),
        max_abs={path: peak if np.isfinite(peak) else None for path, peak in max_abs.items()},
    )


def _rounded(
    exportable: "nn.Module", job: MakeJob, inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What the network makes of inputs that are rounded to the low precisions, and nothing else is."""
    import torch

    from cdm_export.reference_model.reference import run_reference

    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
    outputs: dict[str, NDArray[np.float32]] = {}
    for precision in job.low_precisions:
        low = {name: torch.from_numpy(value).to(kinds[precision]).float().numpy() for name, value in inputs.items()}
        outputs[precision] = run_reference(exportable, job.contract, low)[job.contract.output.name]
    return outputs


def _specialize(exportable: "nn.Module", contract: ModelContract) -> dict[str, Rewrite]:
    from cdm_export.transforms import specialize_for

    savings = specialize_for(contract, exportable)
    return {name: Rewrite.model_validate(vars(saving)) for name, saving in savings.items()}


def _scan(exportable: "nn.Module", job: MakeJob) -> dict[str, float]:
    from cdm_export.precision.range_scan import RangeScan
    from cdm_export.reference_model.reference import run_reference

    report({"stage": "ranges of every module", "steps": len(job.frames)})
    with RangeScan() as scan:
        for frame in job.frames:
            run_reference(exportable, job.contract, inputs_of(frame, job.contract))
            report({"step": frame})
    return scan.max_abs


def _fp32(exportable: "nn.Module", job: MakeJob) -> MadeGraph:
    from cdm_export.onnx.audit import audit

    report({"stage": "export to ONNX, fp32", "steps": 0})
    path = Path(job.folder) / "fp32.onnx"
    versions = export_onnx(exportable, job.contract, path, external_data=job.batch > 1)  # a batch's graph shares them
    return made_graph("fp32", OPSET, path, versions, None, audit(path, None))


def _low(
    exportable: "nn.Module", variant: Variant, max_abs: dict[str, float], precision: LowPrecision, job: MakeJob
) -> list[MadeGraph]:
    """Type the network in place; run it in PyTorch on every frame; write its graph, and for FP16 the second one."""
    from cdm_export.onnx.audit import audit
    from cdm_export.onnx.fp32_attention import attention_in_fp32, write_with_fp32_attention
    from cdm_export.precision.plan import plan
    from cdm_export.precision.rounded import RoundedProducts
    from cdm_export.precision.typed_modules import type_network
    from cdm_export.reference_model.reference import run_reference
    from cdm_export.reference_model.rewriting.attention import AttentionCore

    network = exportable.get_submodule(NETWORK)
    precision_plan = plan(network, max_abs, variant.precision, precision)
    modules = dict(network.named_modules())
    cores = [
        path
        for path in modules
        if isinstance(modules[path], AttentionCore) and not precision_plan.computes_in_fp32(path)
    ]
    if precision == "fp16":  # in BF16 it is every block, for resolution
        for block, why in precision_plan.residuals.items():
            report({"note": f"{precision}: {block} keeps an FP32 residual stream: {why}"})
    precision_plan = type_network(exportable, precision_plan, job.contract)
    report({"stage": f"{precision} in PyTorch, with arithmetic that overflows", "steps": len(job.frames)})
    for index, frame in enumerate(job.frames):
        with RoundedProducts():
            raw = run_reference(exportable, job.contract, inputs_of(frame, job.contract))
        target = Path(job.outputs) / f"torch-{precision}-{index}.npy"
        with naming(target):
            np.save(target, raw[job.contract.output.name])
        report({"step": frame})
    report({"stage": f"export to ONNX, {precision}", "steps": 0})
    path = Path(job.folder) / f"{precision}.onnx"
    opset = OPSET if precision == "fp16" else OPSET_BF16
    # In a file of their own, so that the second graph can share them.
    versions = export_onnx(exportable, job.contract, path, opset=opset, external_data=True)
    graphs = [made_graph(precision, opset, path, versions, precision_plan, audit(path, precision_plan))]
    if precision == "fp16" and cores:
        second, retyped = path.with_name("fp16-attn32.onnx"), attention_in_fp32(precision_plan, cores)
        write_with_fp32_attention(path, second, cores)
        made = made_graph("fp16-attn32", opset, second, versions, retyped, audit(second, retyped))
        graphs.append(made.model_copy(update={"files": (second.name, f"{path.name}.data")}))
    return graphs


def _batch(exportable: "nn.Module", single: MadeGraph, job: MakeJob) -> list[MadeGraph]:
    """The graph for a batch beside the one for a frame; BF16 files are for engines, which take one frame."""
    from cdm_export.onnx.audit import audit

    if job.batch == 1 or single.precision == "bf16":
        return []
    name = execution_name(single.precision, job.batch)
    report({"stage": f"export to ONNX, {name}", "steps": 0})
    path = Path(job.folder) / f"{name}.onnx"
    versions = export_batch(exportable, job.contract.batched(job.batch), path, path.with_name(single.files[0]))
    graph = audit(path, single.precision_plan)
    files = (path.name, *single.files[1:])
    return [single.model_copy(update={"batch": job.batch, "files": files, "versions": versions, "graph": graph})]


def made_graph(
    precision: Precision,
    opset: int,
    path: Path,
    versions: dict[str, str],
    precision_plan: PrecisionPlan | None,
    graph: GraphAudit,
) -> MadeGraph:
    """The account of a graph that was written to ``path``, with its weights' file where it has one."""
    data = path.with_name(f"{path.name}.data")
    return MadeGraph(
        precision=precision,
        opset=opset,
        files=(path.name, data.name) if data.exists() else (path.name,),
        versions=versions,
        precision_plan=precision_plan,
        graph=graph,
    )


def _load(job: MakeJob, variant: Variant) -> "tuple[nn.Module, Provenance]":
    if job.weights.seed is not None:
        return _seeded(job, variant, job.weights.seed)
    from cdm_export.reference_model.checkpoint import load_network

    assert job.weights.checkpoint is not None
    path = Path(job.weights.checkpoint)
    report({"stage": f"checkpoint {path.name}", "steps": 0})
    network, checkpoint, loaded = load_network(path, variant)
    for note in loaded.notes():
        report({"note": note})
    if checkpoint.ignored:
        report({"note": f"foreign Python objects in the file were not loaded: {', '.join(checkpoint.ignored)}"})
    # The choice among several sets of weights is kept, so that ``verify --checkpoint`` makes it again.
    chosen = with_key(path, checkpoint.key if checkpoint.asked or checkpoint.others else "")
    return network, Provenance(
        checkpoint=chosen.name,
        sha256=checkpoint.sha256,
        random_weights=None,
        license=variant.license,
        package=package_of(variant.name),
    )


def _seeded(job: MakeJob, variant: Variant, seed: int) -> "tuple[nn.Module, Provenance]":
    import torch

    from cdm_export.reference_model.random_weights import calibrate_range, seeded_network, state_dict_sha256

    report({"stage": f"seeded random weights for {variant.name}", "steps": 0})
    brought = f", range-calibrated to {variant.seeded_range.description}" if variant.seeded_range else ""
    made = f"random weights (seed {seed}){brought}"
    report({"note": f"{made}: they prove the plumbing, the depth means nothing"})
    network = seeded_network(variant, seed)
    inputs = inputs_of(job.frames[0], job.contract)
    tensors = tuple(torch.from_numpy(inputs[spec.name]) for spec in job.contract.inputs)
    weights = calibrate_range(network, variant, job.contract.channel_order, tensors, seed)
    identity = state_dict_sha256(network)
    provenance = Provenance(
        checkpoint=None, sha256=identity, random_weights=weights, license="", package=package_of(variant.name)
    )
    return network, provenance


def inputs_of(frame: str, contract: ModelContract) -> dict[str, NDArray[np.float32]]:
    """The network's inputs of a frame on disk, by name."""
    arrays = load_reference(Path(frame))
    return {spec.name: arrays[spec.name] for spec in contract.inputs}


if __name__ == "__main__":
    serve(_work)
