"""Execute a program, operation by operation."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from cdm_export.coreml.interpreter import (
    activations,
    elementwise,
    layout,
    normalize,
    pooling,
    products,
    resize,
    weights,
)
from cdm_export.coreml.interpreter.arithmetic import Arithmetic, StrictHalf, Wide
from cdm_export.coreml.interpreter.call import Call, Value
from cdm_export.coreml.interpreter.program import DTYPES, Operand, Operation, Program, Reference
from cdm_export.runtimes.errors import BundleError

_ROUNDED: Mapping[str, Callable[[Call], Tensor]] = {
    **elementwise.OPERATIONS,
    **products.OPERATIONS,
    **normalize.OPERATIONS,
    **pooling.OPERATIONS,
    **resize.OPERATIONS,
    **weights.OPERATIONS,
    **activations.OPERATIONS,
}
"""Computed in FP32, their results rounded to the type the program gives them."""
KNOWN = frozenset(_ROUNDED) | frozenset(layout.OPERATIONS)
"""Every operation that can be executed."""

OnValue = Callable[[str, Tensor], None]


def check_known(program: Program) -> None:
    """Raise BundleError, naming it, for the first operation that cannot be executed."""
    for operation in program.operations:
        if operation.kind not in KNOWN:
            raise BundleError(
                f"operation '{operation.name}' is a '{operation.kind}', which the Core ML reference does not know",
                "Add it to cdm_export/coreml/interpreter, with its test against PyTorch.",
            )


@torch.inference_mode()
def execute(
    program: Program,
    inputs: Mapping[str, Tensor],
    *,
    on_value: OnValue = lambda name, value: None,
    strict: Collection[str] = (),
) -> dict[str, Tensor]:
    """Run a program; results by name. Images are given as [1, 3, H, W] uint8 RGB, whatever layout the program reads.

    ``on_value`` sees every value in order of computation, in its own type. ``strict``: modules of the network whose
    half operations sum in half too (``arithmetic.StrictHalf``): slow, for single blocks.

    Raises BundleError for an unknown operation and for a value that comes out in another shape than the program says.
    """
    check_known(program)
    values: dict[str, Tensor] = {}
    for spec in program.inputs:
        given_value = inputs[spec.name].to(DTYPES[spec.dtype])  # an image's levels, 0..255; the program scales them
        values[spec.name] = given_value.flip(1) if program.images.get(spec.name) == "BGR" else given_value
    last_read = {name: index for index, operation in enumerate(program.operations) for name in operation.reads()}
    kept = set(program.outputs)
    for index, operation in enumerate(program.operations):
        module = program.module_of(operation.name) if strict else None
        half = operation.outputs[0].dtype == "fp16"
        in_half = half and module is not None and any(f"{module}.".startswith(f"{path}.") for path in strict)
        for spec, value in zip(
            operation.outputs, _run(operation, values, StrictHalf() if in_half else Wide()), strict=True
        ):
            if tuple(value.shape) != spec.shape:
                raise BundleError(
                    f"operation '{spec.name}' ({operation.kind}) makes {list(value.shape)}, the program says "
                    f"{list(spec.shape)}"
                )
            values[spec.name] = value.to(DTYPES[spec.dtype])
            on_value(spec.name, values[spec.name])
        for name in operation.reads():
            if last_read[name] == index and name not in kept:
                values.pop(name, None)
    return {name: values[name] for name in program.outputs}


def _run(operation: Operation, values: Mapping[str, Tensor], arithmetic: Arithmetic) -> tuple[Tensor, ...]:
    moves = operation.kind in layout.OPERATIONS

    def fetch(operand: Operand) -> Value:
        value: Value
        if isinstance(operand, Reference):
            value = values[operand.name]
        else:
            assert not isinstance(operand, tuple)
            value = operand
        widened = isinstance(value, Tensor) and value.dtype is torch.float16 and not moves
        return value.float() if widened and isinstance(value, Tensor) else value

    call = Call(
        name=operation.name,
        kind=operation.kind,
        operands={
            name: tuple(fetch(part) for part in operand) if isinstance(operand, tuple) else fetch(operand)
            for name, operand in operation.inputs.items()
        },
        shapes=tuple(spec.shape for spec in operation.outputs),
        arithmetic=arithmetic,
    )
    out = layout.OPERATIONS[operation.kind](call) if moves else _ROUNDED[operation.kind](call)
    return out if isinstance(out, tuple) else (out,)
