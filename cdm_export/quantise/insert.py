"""Q/DQ pairs into an exported graph: on what enters a product, and integers with a DQ instead of its weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdm_export.onnx_names import planned
from runtimes.errors import CdmExportError

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

    from cdm_export.quantise.layers import Quantisable

PRODUCTS = {"MatMul": 1, "Conv": 0}
"""Operators that are quantised, with the axis of the output channels in their weights."""


def insert_pairs(
    model: "onnx_ir.Model",
    steps: Mapping[str, float],
    weights: Mapping[str, tuple[NDArray[np.int8], NDArray[np.float32]]],
) -> None:
    """Rewrite a graph whose nodes are named after their modules, in place.

    ``steps``: of what enters each layer, by path. ``weights``: integers with the output channels first, and their
    steps [out]. Everything takes the type that the layer computes in. Raises CdmExportError unless every layer is
    found exactly once.
    """
    import onnx_ir as ir

    left = dict(steps)
    for node in list(model.graph):
        path = planned((node.name or "").rpartition("/")[0])
        if node.op_type not in PRODUCTS or path not in steps:
            continue
        if left.pop(path, None) is None:
            raise CdmExportError(f"the graph has two products of {path}")
        entering, weight = node.inputs[0], node.inputs[1]
        assert entering is not None and weight is not None and weight.const_value is not None
        kind = weight.const_value.dtype.numpy()
        zero = _constant(model, f"{path}.zero", np.array(0, np.int8))
        step = _constant(model, f"{path}.step", np.array(steps[path], kind))
        quantise = ir.node("QuantizeLinear", [entering, step, zero], name=f"{path}/QuantizeLinear")
        restore = ir.node("DequantizeLinear", [quantise.outputs[0], step, zero], name=f"{path}/DequantizeLinear")
        values, per_channel = weights[path]
        axis = PRODUCTS[node.op_type]
        if axis:
            values = np.ascontiguousarray(values.T)
        held = ir.node(
            "DequantizeLinear",
            [
                _constant(model, f"{path}.integers", values),
                _constant(model, f"{path}.steps", per_channel.astype(kind)),
                _constant(model, f"{path}.zeros", np.zeros(len(per_channel), np.int8)),
            ],
            {"axis": axis},
            name=f"{path}.weight/DequantizeLinear",
        )
        for made, like, name in (
            (quantise, entering, f"{path}.quantised"),
            (restore, entering, f"{path}.restored"),
            (held, weight, f"{path}.weight.restored"),
        ):
            made.outputs[0].name = name
            made.outputs[0].shape = like.shape
            made.outputs[0].dtype = ir.DataType.INT8 if made is quantise else weight.const_value.dtype
        model.graph.insert_before(node, [quantise, restore, held])
        node.replace_input_with(0, restore.outputs[0])
        node.replace_input_with(1, held.outputs[0])
        if not weight.uses() and weight.name and weight.name in model.graph.initializers:
            del model.graph.initializers[weight.name]
    if left:
        raise CdmExportError(f"the graph has no product of {next(iter(left))}, which was to be quantised")


def integer_weights(
    layers: "Mapping[str, Quantisable | nn.Module]",
) -> dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """What ``insert_pairs`` stores, by path."""
    from cdm_export.quantise.layers import integers, weight_steps

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
