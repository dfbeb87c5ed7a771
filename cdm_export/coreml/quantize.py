"""8-bit weights and activations for layers of a half-precision package, from activation steps measured on frames.

In front of a layer its input is rounded to ``step * int8`` by a pair of ``quantize`` and ``dequantize``, which a device
with integer products folds into the layer; its weights are 8-bit integers per output channel. coremltools measures
ranges by predicting, which takes a Mac, and per value, not per layer; so the pairs are inserted here.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cdm_export.coreml.compress import int8_per_channel
from cdm_export.coreml.convert import MODULES_KEY, describe, import_coremltools, node_of, quiet
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import BundleError, InputError

if TYPE_CHECKING:
    from cdm_export.coreml.interpreter.program import Operand, Operation, Program

LAYERS = ("linear", "conv")
"""Operations of ``nn.Linear`` and ``nn.Conv2d``."""
_WEIGHTS = {"constexpr_blockwise_shift_scale": "data", "constexpr_affine_dequantize": "quantized_data"}
"""Operations that unpack integer weights, macOS 15 and before, with the name of the integers."""


def quantize(model: Any, steps: Mapping[str, float], contract: ModelContract, description: str, license: str) -> Any:
    """A half-precision ``MLModel`` whose layers named in ``steps`` read int8 activations and have int8 weights.

    ``steps``: path of a layer in the specialized network -> value of one integer. A layer that runs twice is quantized
    twice. Raises InputError for a layer that the program does not have, or computes in FP32.
    """
    import_coremltools()
    import coremltools.optimize.coreml as optimize
    from coremltools.models.utils import _apply_graph_pass

    modules = model.user_defined_metadata[MODULES_KEY]
    paths = json.loads(modules)
    with quiet():
        inserted = _apply_graph_pass(model, _insertion(steps, paths))
        layers = _layers(inserted._mil_program, steps, paths)
        weights = {operation.weight.op.name: int8_per_channel() for _, operation in layers}
        quantized = optimize.linear_quantize_weights(inserted, optimize.OptimizationConfig(op_name_configs=weights))
    describe(quantized, contract, description, license, modules)
    return quantized


def check_quantized(program: "Program", steps: Mapping[str, float]) -> None:
    """Raise BundleError unless a saved program reads int8 in just these layers, with these steps and int8 weights."""
    from torch import Tensor, int8

    from cdm_export.coreml.interpreter.program import Reference

    made = {operation.name: operation for operation in program.operations}

    def maker(value: "Operand", *kinds: str) -> "Operation | None":
        found = made.get(value.name) if isinstance(value, Reference) else None
        return found if found is not None and found.kind in kinds else None

    def step_of(layer: "Operation") -> float | None:
        back = maker(layer.inputs["x"], "dequantize")
        there = maker(back.inputs["input"], "quantize") if back else None
        weight = maker(layer.inputs["weight"], *_WEIGHTS)
        if back is None or there is None or weight is None:
            return None
        integers, scale = weight.inputs[_WEIGHTS[weight.kind]], there.inputs["scale"]
        eight_bit = isinstance(integers, Tensor) and integers.dtype is int8
        return scale if eight_bit and isinstance(scale, float) and back.inputs["scale"] == scale else None

    for operation in program.operations:
        if operation.kind not in LAYERS:
            continue
        path = program.module_of(operation.name) or ""
        expected = float(np.float16(steps[path])) if path in steps else None
        if step_of(operation) != expected:
            raise BundleError(
                f"operation '{operation.name}' ({path}) reads steps of {step_of(operation)}, expected {expected}"
            )


def _layers(program: Any, steps: Mapping[str, float], paths: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Operations of the layers named, each with its path."""
    for operation in program.functions["main"].operations:
        path = paths.get(node_of(operation.outputs[0].name, paths), "")
        if operation.op_type in LAYERS and path in steps:
            yield path, operation


def _insertion(steps: Mapping[str, float], paths: Mapping[str, str]) -> Any:
    """The pass that puts a pair in front of every operation of the layers."""
    from coremltools.converters.mil.mil import Builder, types
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

    class Insertion(AbstractGraphPass):  # type: ignore[misc]
        def apply(self, prog: Any) -> None:
            layers = list(_layers(prog, steps, paths))
            if missing := sorted(set(steps) - {path for path, _ in layers}):
                raise InputError(
                    f"the package has no layer '{missing[0]}' to quantize",
                    "Steps are named by the linear layers and convolutions of the specialized network that run.",
                )
            wide = next((path for path, operation in layers if operation.x.dtype is not types.fp16), None)
            if wide is not None:
                raise InputError(f"layer '{wide}' computes in FP32, for its resolution", "Leave its step out.")
            with prog.functions["main"] as block:
                for path, operation in layers:
                    x, step, name = operation.x, np.float16(steps[path]), f"{operation.outputs[0].name}_int8"
                    integers = Builder.quantize(
                        input=x, scale=step, output_dtype="int8", name=name, before_op=operation
                    )
                    back = Builder.dequantize(input=integers, scale=step, name=f"{name}_back", before_op=operation)
                    block.replace_uses_of_var_after_op(anchor_op=back.op, old_var=x, new_var=back, end_op=operation)

    return Insertion()
