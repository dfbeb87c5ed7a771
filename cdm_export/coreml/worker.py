"""Core ML packages of a network, made in a process of its own (``runtimes/isolated.py``).

The network is made again from its weights: the process that made the ONNX files has typed it in place and is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_export.progress import Progress, relay
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.variant import NETWORK
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.contract import IMAGE, QUANTIZED, ModelContract, Precision, Record
from cdm_export.runtimes.coreml_target import CoremlTarget, get_target
from cdm_export.runtimes.graph_precision import GraphAudit, PrecisionPlan, Rewrite
from cdm_export.runtimes.isolated import report, run_isolated, serve

if TYPE_CHECKING:
    from cdm_export.coreml.convert import Traced


class Integers(Record):
    """What calibration decided (``quantize/make_int8.py``)."""

    steps: dict[str, float]
    """Layer of the specialized network -> activation that is 1 as int8."""
    scales: dict[str, tuple[float, ...]]
    """Smoothing of the weights that the steps belong to; empty for none."""
    precision_plan: PrecisionPlan
    """Plan for the rest, as made for ONNX."""


class CoremlJob(Record):
    """What to make."""

    contract: ModelContract
    """GraphInterface and sizes."""
    weights: WeightsSource
    """What is converted."""
    license: str
    """Note on the weights' license."""
    image: ModelContract | None
    """GraphInterface of the second FP16 package, which takes an 8-bit image; None makes none."""
    precision_plan: PrecisionPlan | None
    """Plan of the FP16 packages, as made for ONNX; None for FP32 alone."""
    target: str
    """Oldest system that has to open the packages."""
    compressions: tuple[Precision, ...]
    """Packages with smaller weights to make of the FP16 one."""
    integers: Integers | None
    """Of the package with 8-bit activations; None makes none."""
    folder: str
    """Existing folder that takes ``PRECISION.mlpackage``."""


class MadePackage(Record):
    """One package."""

    precision: Precision
    """Of its program."""
    specification: int
    """Version of its format."""
    files: tuple[str, ...]
    """Every file of the package, relative to the job's folder."""
    versions: dict[str, str]
    """Libraries that made it."""
    rewrites: dict[str, Rewrite]
    """Exact rewrites, and what each saved."""
    precision_plan: PrecisionPlan | None
    """How it was typed; None for FP32."""
    graph: GraphAudit
    """What came out."""


class MadePackages(Record):
    """What was made."""

    packages: tuple[MadePackage, ...]
    """FP32 first."""


def make_coreml(job: CoremlJob, progress: Progress) -> tuple[MadePackage, ...]:
    """Run the job. Raises what loading the weights raises."""
    what = "coremltools, converting the model,"
    return MadePackages.model_validate(run_isolated(__name__, job, what, relay(progress))).packages


def _work(text: str) -> MadePackages:
    import torch

    from cdm_export.coreml.compress import compress
    from cdm_export.coreml.convert import convert, coreml_plan, import_coremltools

    job = CoremlJob.model_validate_json(text)
    contract, target = job.contract, get_target(job.target)
    versions = {"torch": torch.__version__, "coremltools": import_coremltools().__version__}
    traced, rewrites = _traced(job, target, {})
    packages = []
    wanted: list[tuple[Precision, PrecisionPlan | None, ModelContract]] = [("fp32", None, contract)]
    if job.precision_plan is not None:
        half = coreml_plan(job.precision_plan)
        wanted += [("fp16", half, contract)]
        wanted += [(IMAGE, half, job.image)] if job.image is not None else []
    for precision, precision_plan, fed in wanted:
        report({"stage": f"export to Core ML for {job.target}, {precision}", "steps": 0})
        model = convert(traced, fed, target, precision_plan, _description(contract, precision), job.license)
        made = _Made(target.specification, versions, rewrites, precision_plan)
        packages.append(made.package(model, precision, job))
        if precision == "fp16":
            for how in job.compressions:
                report({"stage": f"compressing the weights: {how}", "steps": 0})
                smaller = compress(model, how, contract, _description(contract, how), job.license)
                packages.append(made.package(smaller, how, job))
        del model
    if job.integers is not None:
        del traced
        packages.append(_quantized(job, job.integers, target, versions))
    return MadePackages(packages=tuple(packages))


def _traced(
    job: CoremlJob, target: CoremlTarget, scales: Mapping[str, tuple[float, ...]]
) -> "tuple[Traced, dict[str, Rewrite]]":
    """The network made again from its weights, rewritten and smoothed; and what each rewrite saved."""
    from cdm_export.coreml.convert import coreml_rules, trace
    from cdm_export.quantize.smoothquant import fold_all
    from cdm_export.transforms import specialize_for

    report({"stage": f"export to Core ML for {job.target}: tracing", "steps": 0})
    contract = job.contract
    exportable = job.weights.exportable(contract)
    savings = specialize_for(contract, exportable, **coreml_rules(target))
    if scales:
        fold_all(exportable.get_submodule(NETWORK), get_variant(contract.model).quantization, scales)
    rewrites = {name: Rewrite.model_validate(vars(saving)) for name, saving in savings.items()}
    return trace(exportable, contract), rewrites


def _quantized(job: CoremlJob, integers: Integers, target: CoremlTarget, versions: dict[str, str]) -> MadePackage:
    """The package with 8-bit activations, of the network that they were measured in; what was saved is checked."""
    from cdm_export.coreml.convert import convert, coreml_plan
    from cdm_export.coreml.interpreter.program import load_program
    from cdm_export.coreml.quantize import check_quantized, quantize

    traced, rewrites = _traced(job, target, integers.scales)
    report({"stage": f"export to Core ML for {job.target}, {QUANTIZED}", "steps": 0})
    precision_plan, description = coreml_plan(integers.precision_plan), _description(job.contract, QUANTIZED)
    half = convert(traced, job.contract, target, precision_plan, description, job.license)
    model = quantize(half, integers.steps, job.contract, description, job.license)
    package = _Made(target.specification, versions, rewrites, precision_plan).package(model, QUANTIZED, job)
    check_quantized(load_program(Path(job.folder) / f"{QUANTIZED}.mlpackage"), integers.steps)
    return package


def _description(contract: ModelContract, precision: Precision) -> str:
    return f"{contract.model}, {precision}: {contract.semantics.value} in {contract.semantics.unit}"


@dataclass(frozen=True)
class _Made:
    """What packages of one conversion have in common."""

    specification: int
    versions: dict[str, str]
    rewrites: dict[str, Rewrite]
    precision_plan: PrecisionPlan | None

    def package(self, model: Any, precision: Precision, job: CoremlJob) -> MadePackage:
        from cdm_export.coreml.convert import audit, save

        return MadePackage(
            precision=precision,
            specification=self.specification,
            files=save(model, Path(job.folder) / f"{precision}.mlpackage"),
            versions=self.versions,
            rewrites=self.rewrites,
            precision_plan=self.precision_plan,
            graph=audit(model, self.precision_plan),
        )


if __name__ == "__main__":
    serve(_work)
