"""Core ML packages of a network, made in a process of its own (``runtimes/isolated.py``).

The network is made again from its weights: the process that made the ONNX files has typed it in place and is gone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_export.progress import Progress, relay
from runtimes.bundle import RandomWeights
from runtimes.contract import IMAGE, QUANTISED, ModelContract, Precision, Record
from runtimes.coreml_target import get_target
from runtimes.isolated import report, run_isolated, serve
from runtimes.typed_graph import GraphAudit, Rewrite, Typing


class CoremlJob(Record):
    """What to make."""

    contract: ModelContract
    """Boundary and sizes."""
    checkpoint: str | None
    """Checkpoint file; or ``random_weights``."""
    random_weights: RandomWeights | None
    """How to make seeded weights again; or ``checkpoint``."""
    licence: str
    """Note on the weights' licence."""
    image: ModelContract | None
    """Boundary of the second FP16 package, which takes an 8-bit image; None makes none."""
    typing: Typing | None
    """Plan of the FP16 packages, as made for ONNX; None for FP32 alone."""
    target: str
    """Oldest system that has to open the packages."""
    compressions: tuple[Precision, ...]
    """Packages with smaller weights to make of the FP16 one."""
    steps: dict[str, float] | None
    """Activation steps by layer, of the quantised package; None makes none."""
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
    typing: Typing | None
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
    return MadePackages.model_validate(run_isolated("cdm_export.make_coreml", job, what, relay(progress))).packages


def _work(text: str) -> MadePackages:
    import torch

    from cdm_export.coreml_compress import compress
    from cdm_export.coreml_export import (
        convert,
        coreml_rules,
        coreml_typing,
        import_coremltools,
        trace,
    )
    from cdm_export.coreml_quantise import check_quantised, quantise
    from cdm_export.coreml_reference.package import load_program
    from cdm_export.transforms import specialise
    from reference_model.config import PATCH
    from reference_model.torch_runtime import make_boundary

    job = CoremlJob.model_validate_json(text)
    contract, target = job.contract, get_target(job.target)
    versions = {"torch": torch.__version__, "coremltools": import_coremltools().__version__}
    report({"stage": f"export to Core ML for {job.target}: tracing", "steps": 0})
    boundary = make_boundary(job.random_weights or Path(str(job.checkpoint)), contract)
    rows, columns = contract.network.height // PATCH, contract.network.width // PATCH
    savings = specialise(boundary, rows, columns, coreml_rules(target))
    rewrites = {name: Rewrite.model_validate(vars(saving)) for name, saving in savings.items()}
    traced = trace(boundary, contract)
    del boundary
    packages = []
    wanted: list[tuple[Precision, Typing | None, ModelContract]] = [("fp32", None, contract)]
    if job.typing is not None:
        half = coreml_typing(job.typing)
        wanted += [("fp16", half, contract)]
        wanted += [(IMAGE, half, job.image)] if job.image is not None else []
    for precision, typing, fed in wanted:
        report({"stage": f"export to Core ML for {job.target}, {precision}", "steps": 0})
        description = f"{contract.model}, {precision}: {contract.semantics.value} in {contract.semantics.unit}"
        model = convert(traced, fed, target, typing, description, job.licence)
        made = _Made(target.specification, versions, rewrites, typing)
        packages.append(made.package(model, precision, job))
        if precision == "fp16":
            for how in job.compressions:
                report({"stage": f"compressing the weights: {how}", "steps": 0})
                description = f"{contract.model}, {how}: {contract.semantics.value} in {contract.semantics.unit}"
                packages.append(made.package(compress(model, how, contract, description, job.licence), how, job))
            if job.steps is not None:
                report({"stage": f"quantising layers: {QUANTISED}", "steps": 0})
                assert typing is not None
                steps = {path: step for path, step in job.steps.items() if not typing.computes_in_fp32(path)}
                description = f"{contract.model}, {QUANTISED}: {contract.semantics.value} in {contract.semantics.unit}"
                quantised = quantise(model, steps, contract, description, job.licence)
                packages.append(made.package(quantised, QUANTISED, job))
                check_quantised(load_program(Path(job.folder) / f"{QUANTISED}.mlpackage"), steps)
        del model
    return MadePackages(packages=tuple(packages))


@dataclass(frozen=True)
class _Made:
    """What packages of one conversion have in common."""

    specification: int
    versions: dict[str, str]
    rewrites: dict[str, Rewrite]
    typing: Typing | None

    def package(self, model: Any, precision: Precision, job: CoremlJob) -> MadePackage:
        from cdm_export.coreml_export import audit, save

        return MadePackage(
            precision=precision,
            specification=self.specification,
            files=save(model, Path(job.folder) / f"{precision}.mlpackage"),
            versions=self.versions,
            rewrites=self.rewrites,
            typing=self.typing,
            graph=audit(model, self.typing),
        )


if __name__ == "__main__":
    serve(_work)
