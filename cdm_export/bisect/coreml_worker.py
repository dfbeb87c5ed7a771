"""Interprets a package and writes what its stages hand on, or runs for an operation, in a process of its own."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdm_export.bisect.measures import Measure, measure
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import ModelContract, Record
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.isolated import run_isolated, serve

if TYPE_CHECKING:
    from torch import Tensor

    from cdm_export.coreml.interpreter.program import Program


class ShowJob(Record):
    """What to look at."""

    package: str
    """Folder of the package."""
    contract: ModelContract
    """Its interface."""
    threads: int
    """Compute threads; 0 for the default."""
    frame: str
    """npz file that holds the inputs by name."""
    stages: tuple[str, ...] | None
    """Modules to show, the contract's output among them if wanted; None to list all."""
    folder: str
    """Where one npy file per stage goes."""
    after: tuple[str, ...] = ()
    """With ``weights``: stages that are inside the tolerance."""
    weights: str | None = None
    """Checkpoint or bundle: look for the operation between ``after`` and the one of ``stages``."""
    target: str = ""
    """Likewise: system the package was made for, which decides its rewrites."""
    tolerance: float = 0.0
    """Likewise: on the relative L2 error of a value."""


class OperationFound(Record):
    """An operation whose value is outside while every one before it is inside."""

    name: str
    """Its value in the program."""
    kind: str
    """Its type, e.g. ``conv``."""
    module: str
    """Module of the network that it belongs to."""
    measure: Measure
    """Against the same operation in PyTorch."""


class Shown(Record):
    """What was shown."""

    shapes: dict[str, tuple[int, ...]]
    """Of every stage."""
    files: dict[str, str]
    """npy file by stage; empty for a list."""
    operation: OperationFound | None = None
    """What was looked for; None when every value is inside."""


def show(job: ShowJob) -> Shown:
    """Run a job. Raises BundleError, CheckpointError, BackendCrashed."""
    what = f"the Core ML reference exposing stages of {Path(job.package).name}"
    return Shown.model_validate(run_isolated(__name__, job, what, lambda message: None))


def stage_values(program: "Program", output: str) -> dict[str, str]:
    """Stage -> value of the program: what the last node traced inside a module computes, where the program has it."""
    made = {program.node_of(spec.name): spec.name for operation in program.operations for spec in operation.outputs}
    last: dict[str, str] = {}
    for node, module in program.modules.items():
        parts = module.split(".")
        for depth in range(len(parts)):
            last[".".join(parts[: depth + 1])] = node
    return {stage: made[node] for stage, node in last.items() if stage and node in made} | {output: output}


def _work(text: str) -> Shown:
    import torch

    from cdm_export.coreml.interpreter.program import load_program

    job = ShowJob.model_validate_json(text)
    if job.threads:
        torch.set_num_threads(job.threads)
    program = load_program(Path(job.package))
    values = stage_values(program, job.contract.output.name)
    types = {spec.name: spec for operation in program.operations for spec in operation.outputs}
    shapes = {stage: types[value].shape for stage, value in values.items()}
    if job.stages is None:
        return Shown(shapes=shapes, files={})
    if job.weights is not None:
        reached = _between(program, values[job.stages[0]], {values[name] for name in job.after if name in values})
        return Shown(shapes={}, files={}, operation=_first_outside(job, program, reached))
    wanted = {values[stage] for stage in job.stages}
    seen = _values(job, program, wanted)
    files = {}
    for index, stage in enumerate(job.stages):
        files[stage] = str(Path(job.folder) / f"{index:03d}.npy")
        with naming(Path(files[stage])):
            np.save(files[stage], seen[values[stage]].float().numpy(), allow_pickle=False)
    return Shown(shapes={stage: shapes[stage] for stage in job.stages}, files=files)


def _inputs(job: ShowJob) -> "dict[str, Tensor]":
    import torch

    with np.load(job.frame, allow_pickle=False) as arrays:
        return {spec.name: torch.from_numpy(arrays[spec.name]) for spec in job.contract.inputs}


def _values(job: ShowJob, program: "Program", wanted: Collection[str]) -> "dict[str, Tensor]":
    from cdm_export.coreml.interpreter.execute import execute

    seen: dict[str, Tensor] = {}

    def keep(name: str, value: "Tensor") -> None:
        if name in wanted:
            seen[name] = value

    execute(program, _inputs(job), on_value=keep)
    return seen


def _between(program: "Program", value: str, known: set[str]) -> list[str]:
    """Values that ``value`` is made of, back to ``known``, in program order."""
    made_by = {spec.name: operation for operation in program.operations for spec in operation.outputs}
    found: set[str] = set()
    left = [value]
    while left:
        name = left.pop()
        if name in found or name in known or name not in made_by:
            continue
        operation = made_by[name]
        found.update(spec.name for spec in operation.outputs)
        left += operation.reads()
    return [name for name in made_by if name in found]


def _first_outside(job: ShowJob, program: "Program", names: list[str]) -> OperationFound | None:
    truth = _traced(job, {program.node_of(name) for name in names})
    seen = _values(job, program, names)
    kinds = {spec.name: operation.kind for operation in program.operations for spec in operation.outputs}
    for name in names:
        expected = truth.get(program.node_of(name))
        if expected is None or expected.shape != seen[name].shape:
            continue
        result = measure(name, expected.float().numpy(), seen[name].float().numpy(), job.tolerance)
        if not result.inside:
            module = program.module_of(name) or ""
            return OperationFound(name=name, kind=kinds[name], module=module, measure=result)
    return None


def _traced(job: ShowJob, wanted: Collection[str]) -> "Mapping[str, Tensor]":
    """Nodes of the exported graph by name, in float32 PyTorch."""
    import torch

    from cdm_export.coreml.convert import coreml_rules, trace
    from cdm_export.reference_model.torch_runtime import load_exportable
    from cdm_export.runtimes.coreml_target import get_target
    from cdm_export.transforms import specialize_for

    assert job.weights is not None
    contract = job.contract
    exportable = load_exportable(Path(job.weights), contract)
    specialize_for(contract, exportable, **coreml_rules(get_target(job.target)))
    module = trace(exportable, contract).program.module()
    seen: dict[str, Tensor] = {}

    class Watching(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if n.name in wanted and isinstance(result, torch.Tensor):
                seen[n.name] = result
            return result

    inputs = _inputs(job)
    with torch.no_grad():
        # An 8-bit image is scaled by the program; the network has floats.
        fed = (inputs[spec.name] for spec in contract.inputs)
        Watching(module).run(*(value / 255 if value.dtype is torch.uint8 else value for value in fed))
    if not seen:
        raise InputError(f"{Path(job.package).name} was traced by another PyTorch: no node has a name it knows")
    return seen


if __name__ == "__main__":
    serve(_work)
