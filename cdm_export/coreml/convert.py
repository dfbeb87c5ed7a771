"""A specialized network -> Core ML packages (ML Program, fixed size): torch.export, then coremltools.

The other road, TorchScript, fails with the PyTorch that exports everything else. Every value of the program keeps the
name of the node of the exported graph that computes it; which module of the network that is travels in the metadata.
"""

import contextlib
import json
import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from cdm_export.reference_model.variant import NETWORK
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import CONTRACT_KEY, ModelContract, TensorSpec
from cdm_export.runtimes.coreml_target import TARGETS, CoremlTarget
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.graph_precision import GraphAudit, IslandKind, PrecisionPlan

if TYPE_CHECKING:
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

MODULES_KEY = "cdm_export.modules"
"""Metadata: JSON, value of the program -> module of the network that hands it on or computes it."""
FUSED_HERE = IslandKind.LAYER_NORM
"""Islands that are none here: layer_norm is one operation, which takes and hands on half and sums inside the device's
kernel; sixty casts to FP32 would take the Neural Engine out of the network."""


class CoremlRules(TypedDict):
    """What ``transforms.specialize_for`` takes beside contract and network."""

    exclude: tuple[str, ...]
    instead: "dict[str, Rule]"


def coreml_rules(target: CoremlTarget) -> CoremlRules:
    """The rewrites for Core ML: attention as the target's operator where it has one; linear layers as they are."""
    from cdm_export.transforms import fused_attention

    instead: dict[str, Rule] = {"explicit_attention": fused_attention} if target.fused_attention else {}
    return {"exclude": ("linear_layout",), "instead": instead}


def coreml_plan(precision_plan: PrecisionPlan) -> PrecisionPlan:
    """A plan made for ONNX as Core ML takes it."""
    islands = tuple(island for island in precision_plan.islands if island.kind is not FUSED_HERE)
    return precision_plan.model_copy(update={"islands": islands})


@dataclass(frozen=True)
class Traced:
    """A network as torch.export sees it."""

    program: Any
    """``torch.export.ExportedProgram``."""
    modules: Mapping[str, str]
    """Node -> path of the innermost module that computes it; the network's own, without its interface."""


def trace(network: "nn.Module", contract: ModelContract) -> Traced:
    """Export a specialized network behind its interface; its operators stay whole."""
    import torch

    example = tuple(torch.zeros(spec.shape) for spec in contract.inputs)
    with quiet(), torch.no_grad():
        program = torch.export.export(network.eval(), example).run_decompositions({})
    modules = {}
    for node in program.graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if node.op == "call_function" and stack:
            path = str(stack[-1][0])
            modules[node.name] = path.removeprefix(NETWORK).removeprefix(".")
    return Traced(program, modules)


def convert(
    traced: Traced,
    contract: ModelContract,
    target: CoremlTarget,
    precision_plan: PrecisionPlan | None,
    description: str,
    license: str,
) -> Any:
    """The exported graph as ``coremltools.models.MLModel``, FP32, or FP16 with the islands of ``precision_plan``."""
    ct = import_coremltools()
    precision = ct.precision.FLOAT32
    if precision_plan is not None:
        islands = _Islands(precision_plan, traced.modules)
        precision = ct.transform.FP16ComputePrecision(op_selector=islands.computes_in_fp16)
    try:
        with quiet():
            model = ct.convert(
                traced.program,
                inputs=[_input(spec) for spec in contract.inputs],
                outputs=[ct.TensorType(name=spec.name, dtype=np.float32) for spec in contract.outputs],
                minimum_deployment_target=getattr(ct.target, target.coremltools),
                compute_precision=precision,
                skip_model_load=True,
            )
    except (ValueError, NotImplementedError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"coremltools {ct.__version__} cannot make a package for {target.name} of this network: {said}",
            f"A newer system may have what is missing: --coreml-target {list(TARGETS)[-1]}",
        ) from error
    describe(model, contract, description, license, json.dumps(traced.modules))
    return model


def _input(spec: TensorSpec) -> Any:
    """An array; of an 8-bit image Core ML's image type, which takes camera buffers, and the program scales to 0..1."""
    ct = import_coremltools()
    if spec.dtype == "uint8":
        return ct.ImageType(name=spec.name, shape=spec.shape, scale=1 / 255, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=spec.name, shape=spec.shape, dtype=np.float32)


def describe(model: Any, contract: ModelContract, description: str, license: str, modules: str) -> None:
    """What travels inside a package: the contract, units, the weights' license, ``Traced.modules`` as JSON."""
    model.short_description = description
    model.author = "cdm-export"
    if license:
        model.license = license
    model.user_defined_metadata[CONTRACT_KEY] = contract.model_dump_json()
    model.user_defined_metadata[MODULES_KEY] = modules
    for spec in contract.inputs:
        model.input_description[spec.name] = spec.unit
    for spec in contract.outputs:
        model.output_description[spec.name] = spec.unit


def save(model: Any, path: Path) -> tuple[str, ...]:
    """Write a package; returns its files, relative to its folder's parent."""
    with quiet(), naming(path):
        model.save(str(path))
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # names for another runtime's debugger
    inside = sorted(path.rglob("*"))
    for one in inside:
        one.chmod(0o755 if one.is_dir() else 0o644)  # coremltools writes parts for their owner only
    files = [file for file in inside if file.is_file()]
    return tuple(file.relative_to(path.parent).as_posix() for file in files)


def audit(model: Any, precision_plan: PrecisionPlan | None) -> GraphAudit:
    """Count operations by type and element type, casts by what explains them, weights by element type."""
    from coremltools.converters.mil.mil import types

    modules = json.loads(model.user_defined_metadata[MODULES_KEY])
    casts: Counter[str] = Counter()
    nodes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    weights: Counter[str] = Counter()
    main = model._mil_program.functions["main"]
    for operation in main.operations:
        out = operation.outputs[0]
        kind = str(types.builtin_to_string(out.dtype))
        if operation.op_type == "const":
            value = out.val
            if getattr(value, "size", 0) >= _SMALL:
                weights[kind] += value.size * out.dtype.get_bitwidth() // 8
        else:
            nodes[operation.op_type][kind] += 1
        if operation.op_type == "cast":
            near = (modules.get(node_of(var.name, modules)) for var in (out, operation.x, *_readers(out)))
            why = next(
                (why for module in near if module and precision_plan and (why := precision_plan.reason(module))), None
            )
            casts[why or "at the interface"] += 1
    return GraphAudit(
        nodes={operator: dict(kinds.most_common()) for operator, kinds in sorted(nodes.items())},
        casts=dict(casts.most_common()),
        weights_mb={kind: round(size / 1e6, 3) for kind, size in weights.most_common()},
    )


def _readers(var: Any) -> list[Any]:
    return [out for operation in var.child_ops for out in operation.outputs]


def node_of(value: str, modules: Mapping[str, str]) -> str:
    """Node of the exported graph that a value comes from: its name without what typing and uniqueness added to it."""
    for suffix in ("_to_fp16", "_to_fp32"):
        value = value.removesuffix(suffix)
    name = value.replace("_cast_fp16", "")
    return name.removesuffix("_0") if name not in modules else name


_SMALL = 10
"""Values with fewer elements are attributes, not weights; coremltools keeps them in the program itself."""


def import_coremltools() -> Any:
    """Import it without its remarks on libraries it was not tested with and a runtime that only a Mac has."""
    logger = logging.getLogger("coremltools")
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
    logger.setLevel(logging.ERROR)
    return coremltools


class _Islands:
    """Which operations compute in half."""

    def __init__(self, precision_plan: PrecisionPlan, modules: Mapping[str, str]) -> None:
        self._precision_plan = precision_plan
        self._modules = modules

    def computes_in_fp16(self, operation: Any) -> bool:
        """Half, unless the value's module is an island or its residual stream is FP32."""
        module = self._module(operation)
        if module is None:
            return True
        return not self._precision_plan.computes_in_fp32(module) and module not in self._precision_plan.residuals

    def _module(self, operation: Any) -> str | None:
        """Module by the operation's value, else by what it reads: coremltools' own helpers have names of their own."""
        names = [out.name for out in operation.outputs]
        for given in operation.inputs.values():
            names += [var.name for var in (given if isinstance(given, list | tuple) else (given,)) if var is not None]
        return next((self._modules[name] for name in names if name in self._modules), None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Both exporters talk about themselves, with progress bars."""
    import io

    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
