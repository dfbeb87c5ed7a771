"""Q/DQ pairs into an exported graph: on what enters a product, and integers with a DQ instead of its weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdm_export.onnx.node_names import module_of
from cdm_export.runtimes.errors import CdmExportError

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

    from cdm_export.quantize.layers import Quantizable

PRODUCTS = {"MatMul": 1, "Conv": 0}
"""Operators that are quantized, with the axis of the output channels in their weights."""


def insert_pairs(
    model: "onnx_ir.Model",
    steps: Mapping[str, float],
    weights: Mapping[str, tuple[NDArray[np.int8], NDArray[np.float32]]],
) -> None:
    """Rewrite a graph whose nodes are named after their modules, in place.

    ``steps``: of what enters each layer, by path. ``weights``: integers with the output channels first, and their
    steps [out]. Everything takes the type that the layer computes in. A layer that runs twice has a pair for each of
    its inputs; its integers are stored once. Raises CdmExportError for a layer that is not found.
    """
    import onnx_ir as ir

    times: Counter[str] = Counter()
    constants: dict[str, Sequence[ir.Value]] = {}
    for node in list(model.graph):
        path = module_of(node.name or "")
        if node.op_type not in PRODUCTS or path not in steps:
            continue
        times[path] += 1
        number = "" if times[path] == 1 else f"_{times[path]}"
        entering, weight = node.inputs[0], node.inputs[1]
        assert entering is not None and weight is not None and weight.const_value is not None
        axis = PRODUCTS[node.op_type]
        if path not in constants:
            kind = weight.const_value.dtype.numpy()
            values, per_channel = weights[path]
            constants[path] = (
                _constant(model, f"{path}.step", np.array(steps[path], kind)),
                _constant(model, f"{path}.zero", np.array(0, np.int8)),
                _constant(model, f"{path}.integers", np.ascontiguousarray(values.T) if axis else values),
                _constant(model, f"{path}.steps", per_channel.astype(kind)),
                _constant(model, f"{path}.zeros", np.zeros(len(per_channel), np.int8)),
            )
        step, zero, *held_constants = constants[path]
        quantize = ir.node("QuantizeLinear", [entering, step, zero], name=f"{path}/QuantizeLinear{number}")
        restore = ir.node(
            "DequantizeLinear", [quantize.outputs[0], step, zero], name=f"{path}/DequantizeLinear{number}"
        )
        held = ir.node(
            "DequantizeLinear", held_constants, {"axis": axis}, name=f"{path}.weight/DequantizeLinear{number}"
        )
        for made, like, name in (
            (quantize, entering, f"{path}.quantized{number}"),
            (restore, entering, f"{path}.restored{number}"),
            (held, weight, f"{path}.weight.restored{number}"),
        ):
            made.outputs[0].name = name
            made.outputs[0].shape = like.shape
            made.outputs[0].dtype = ir.DataType.INT8 if made is quantize else weight.const_value.dtype
        model.graph.insert_before(node, [quantize, restore, held])
        node.replace_input_with(0, restore.outputs[0])
        node.replace_input_with(1, held.outputs[0])
        if not weight.uses() and weight.name and weight.name in model.graph.initializers:
            del model.graph.initializers[weight.name]
    if missing := next((path for path in steps if not times[path]), None):
        raise CdmExportError(f"the graph has no product of {missing}, which was to be quantized")


def integer_weights(
    layers: "Mapping[str, Quantizable | nn.Module]",
) -> dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """What ``insert_pairs`` stores, by path."""
    from cdm_export.quantize.layers import integers, weight_steps

    made = {}
    for path, layer in layers.items():
        per_channel = weight_steps(layer.weight)  # type: ignore[arg-type]
        made[path] = (integers(layer.weight, per_channel).numpy(), per_channel.numpy())  # type: ignore[arg-type]
    return made


def _constant(model: "onnx_ir.Model", name: str, array: "NDArray[np.generic]") -> "onnx_ir.Value":
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    model.graph.register_initializer(value)
    return value
