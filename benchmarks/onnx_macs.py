"""Multiply-adds of an ONNX graph, counted from its shapes."""

import math
from pathlib import Path

import onnx


def count_macs(path: Path) -> int:
    """Of all matrix products and convolutions for one call, batch included. Shapes have to be static.

    Raises ValueError for a product whose shapes the graph does not tell.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            continue
        try:
            left, right, out = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
        except KeyError as error:
            raise ValueError(f"{path.name}: {node.name} has no shape for {error}") from None
        if node.op_type == "MatMul":
            total += math.prod(out) * left[-1]
        elif node.op_type == "Gemm":
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            total += math.prod(out) * left[0 if transposed else 1]
        elif node.op_type == "Conv":  # the weight is [out, in / groups, ...]
            total += math.prod(out) * math.prod(right[1:])
        else:  # [in, out / groups, ...], once per input element
            total += math.prod(left) * math.prod(right[1:])
    return total
