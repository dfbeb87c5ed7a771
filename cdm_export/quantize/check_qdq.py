"""Does a file on disk quantize what it should, as TensorRT, OpenVINO and ONNX Runtime all accept it, and no more?

Symmetric, zero point 0; activations per tensor, weights per output channel and stored as integers; on the inputs of
matrix products and convolutions only. (TensorRT, "Explicit quantization"; onnx-tensorrt takes no other zero point.)
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdm_export.onnx.node_names import module_of
from cdm_export.quantize.insert_qdq import PRODUCTS
from cdm_export.runtimes.errors import CdmExportError

if TYPE_CHECKING:
    import onnx


def check_rules(path: Path, layers: Iterable[str]) -> None:
    """Read the graph and compare it with the plan: the products of ``layers`` are quantized, nothing else is.

    Raises CdmExportError with the first three nodes that break a rule.
    """
    import onnx

    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    wrong: list[str] = []
    wanted, done, floats = set(layers), set[str](), set[str]()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            wrong += _pair(node, constants, makers, readers)
            continue
        inputs = [makers.get(name) for name in node.input]
        restored = [index for index, maker in enumerate(inputs) if maker and maker.op_type == "DequantizeLinear"]
        module = module_of(node.name)
        if not restored:
            if node.op_type in PRODUCTS:
                floats.add(module)
            continue
        if node.op_type not in PRODUCTS or restored != [0, 1]:
            wrong.append(f"{node.name} reads integers on inputs {restored}")
            continue
        held = inputs[1]
        assert held is not None
        axis = next((attribute.i for attribute in held.attribute if attribute.name == "axis"), 1)
        if held.input[0] not in constants or axis != PRODUCTS[node.op_type] or not _per_channel(held, constants, axis):
            wrong.append(f"{node.name} has no integer weights with a step per output channel")
        done.add(module)
    # A layer that runs twice has two products, and both count.
    wrong += [f"{module} is not quantized" for module in sorted(wanted - done | wanted & floats)]
    wrong += [f"{module} is quantized and should not be" for module in sorted(done - wanted)]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CdmExportError(f"{path.name} is not quantized as planned: {'; '.join(wrong[:3])}{more}")


def _pair(
    node: "onnx.NodeProto",
    constants: "dict[str, onnx.TensorProto]",
    makers: "dict[str, onnx.NodeProto]",
    readers: "dict[str, list[onnx.NodeProto]]",
) -> list[str]:
    """What is wrong with a Q or DQ, and with what reads it."""
    from onnx import TensorProto, numpy_helper

    if len(node.input) != 3 or any(name not in constants for name in node.input[1:]):
        return [f"{node.name} has no constant step and zero point"]
    step, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
    found = []
    if constants[node.input[2]].data_type != TensorProto.INT8 or zero.any():
        found.append(f"{node.name} is not symmetric int8")
    if not (np.isfinite(step).all() and (step > 0).all()):
        found.append(f"{node.name} has a step that is not positive")
    following = {reader.op_type for reader in readers.get(node.output[0], [])}
    if node.op_type == "QuantizeLinear":
        if step.ndim or following != {"DequantizeLinear"}:
            found.append(f"{node.name} is not one step for a whole tensor, restored at once")
    elif not following <= set(PRODUCTS):
        found.append(f"{node.name} is read by {', '.join(sorted(following))}")
    elif node.input[0] not in constants and makers[node.input[0]].op_type != "QuantizeLinear":
        found.append(f"{node.name} restores what nothing quantized")
    return found


def _per_channel(held: "onnx.NodeProto", constants: "dict[str, onnx.TensorProto]", axis: int) -> bool:
    weights, steps = constants[held.input[0]], constants[held.input[1]]
    return list(steps.dims) == [weights.dims[axis]]
