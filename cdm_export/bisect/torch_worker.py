"""Runs the network in PyTorch and writes what its modules hand on, in a process of its own."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdm_export.precision.original_path import original_path
from cdm_export.reference_model.variant import NETWORK
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import ModelContract, Record
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.graph_precision import PrecisionPlan
from cdm_export.runtimes.isolated import run_isolated, serve

if TYPE_CHECKING:
    from torch import Tensor, nn


class ShowJob(Record):
    """What to show."""

    weights: str
    """Checkpoint file, or a bundle folder of seeded random weights."""
    contract: ModelContract
    """GraphInterface of the network."""
    precision: str
    """``fp32`` for the reference; else that of ``precision_plan``."""
    precision_plan: PrecisionPlan | None
    """How the artifact of that precision was typed; None for the reference."""
    threads: int
    """Compute threads; 0 for the default."""
    frame: str
    """npz file that holds the inputs by name."""
    stages: tuple[str, ...] | None
    """Modules to show, the contract's output among them if wanted; None to list all, without weights or frame."""
    folder: str
    """Where one npy file per stage goes."""


class Shown(Record):
    """What was shown."""

    shapes: dict[str, tuple[int, ...]]
    """Of every stage."""
    files: dict[str, str]
    """npy file by stage; empty for a list."""


def show(job: ShowJob) -> Shown:
    """Run a job. Raises CheckpointError, ParityError, BackendUnavailable for an unknown precision, BackendCrashed."""
    what = f"PyTorch, computing stages in {job.precision},"
    return Shown.model_validate(run_isolated(__name__, job, what, lambda message: None))


def _network(job: ShowJob) -> "tuple[nn.Module, AbstractContextManager[Any]]":
    """The network on its interface, and what has to be in force while it runs."""
    from cdm_export.reference_model.torch_runtime import load_exportable

    exportable = load_exportable(Path(job.weights), job.contract)
    if job.precision_plan is None:
        return exportable, nullcontext()
    from cdm_export.precision.rounded import RoundedProducts
    from cdm_export.precision.typed_modules import type_network
    from cdm_export.transforms import specialize_for

    specialize_for(job.contract, exportable)
    type_network(exportable, job.precision_plan, job.contract)
    return exportable, RoundedProducts()


def _work(text: str) -> Shown:
    import torch

    job = ShowJob.model_validate_json(text)
    if job.threads:
        torch.set_num_threads(job.threads)
    return _listed(job.contract) if job.stages is None else _shown(job, job.stages)


def _listed(contract: ModelContract) -> Shown:
    """A forward on shapes alone."""
    import torch

    from cdm_export.reference_model.registry import get_variant

    variant = get_variant(contract.model)
    with torch.device("meta"), torch.inference_mode():
        exportable = variant.exportable(variant.build(), contract.channel_order).eval()
        network = exportable.get_submodule(NETWORK)
        seen = _hooked({name: module for name, module in network.named_modules() if name})
        out = exportable(*(torch.zeros(spec.shape) for spec in contract.inputs))
    shapes = {name: tuple(calls[0].shape) for name, calls in seen.items() if _one_tensor(calls)}
    return Shown(shapes={**shapes, contract.output.name: tuple(out.shape)}, files={})


def _shown(job: ShowJob, stages: tuple[str, ...]) -> Shown:
    from cdm_export.reference_model.reference import run_reference

    contract = job.contract
    output = contract.output.name
    exportable, in_force = _network(job)
    modules: dict[str, nn.Module] = {}
    for path, module in exportable.get_submodule(NETWORK).named_modules():
        modules.setdefault(original_path(path), module)  # what casts for a module hands on what it does
    seen = _hooked({name: modules[name] for name in stages if name != output})
    with np.load(job.frame, allow_pickle=False) as arrays:
        inputs = {spec.name: arrays[spec.name] for spec in contract.inputs}
    with in_force:
        outputs = run_reference(exportable, contract, inputs)
    shapes, files = {}, {}
    for index, name in enumerate(stages):
        if name == output:
            array = outputs[output]
        elif _one_tensor(seen[name]):
            array = seen[name].pop().float().cpu().numpy()
        else:
            raise ParityError(f"'{name}' ran {len(seen[name])} times or hands on more than one tensor: it is no stage")
        shapes[name], files[name] = array.shape, str(Path(job.folder) / f"{index:03d}.npy")
        with naming(Path(files[name])):
            np.save(files[name], array, allow_pickle=False)
    return Shown(shapes=shapes, files=files)


def _hooked(modules: "dict[str, nn.Module]") -> "dict[str, list[Tensor]]":
    """What each module hands on, one entry per call; filled while the network runs."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_hook(lambda module, args, output, calls=seen[name]: calls.append(output))
    return seen


def _one_tensor(calls: "list[Tensor]") -> bool:
    import torch

    return len(calls) == 1 and isinstance(calls[0], torch.Tensor)


if __name__ == "__main__":
    serve(_work)
