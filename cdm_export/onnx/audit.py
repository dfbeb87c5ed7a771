"""Is the graph typed as it was planned? Counted from the types that ONNX shape inference gives every value.

A product in FP32 outside an island, or a cast that nothing explains, is an error of the exporter and ends the export.
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_export.onnx.node_names import module_of
from cdm_export.runtimes.errors import CdmExportError
from cdm_export.runtimes.graph_precision import GraphAudit, PrecisionPlan

if TYPE_CHECKING:
    import onnx

_COMPUTE_OPS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
_WIDE = {"FLOAT", "DOUBLE"}
_PLACES = {"INT32", "INT64"}
"""What a look-up makes of numbers; no precision is lost that it had not decided to lose."""


def audit(path: Path, precision_plan: PrecisionPlan | None) -> GraphAudit:
    """Count nodes by operator and type, casts by explanation, weights by type; the external data is not read.

    ``precision_plan`` is None for an FP32 graph, which must hold no cast but to integers, and nothing but FP32. Raises
    CdmExportError naming the nodes that are typed otherwise than planned.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), data_prop=True)
    types = _types(model)
    nodes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    casts: Counter[str] = Counter()
    wrong = []
    for node in model.graph.node:
        kind = types.get(node.output[0], "UNDEFINED")
        nodes[node.op_type][kind] += 1
        module = module_of(node.name)
        if node.op_type == "Cast":
            why = precision_plan.reason(module) if precision_plan else None
            if kind in _PLACES:
                why = "places to read from"
            casts[why or "unexplained"] += 1
            if why is None:
                wrong.append(f"{node.name} is explained by nothing")
        elif kind == "UNDEFINED":
            wrong.append(f"{node.name} has no known type")
        elif node.op_type in _COMPUTE_OPS and (kind in _WIDE) != (
            precision_plan is None or precision_plan.multiplies_in_fp32(module)
        ):
            wrong.append(f"{node.name} computes in {kind}")
    if wrong:
        raise CdmExportError(
            f"{path.name} is not typed as planned: {'; '.join(wrong[:3])}"
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        )
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        weights[onnx.TensorProto.DataType.Name(tensor.data_type)] += _bytes(tensor)
    return GraphAudit(
        nodes={operator: dict(kinds.most_common()) for operator, kinds in sorted(nodes.items())},
        casts=dict(casts.most_common()),
        weights_mb={kind: round(size / 1e6, 3) for kind, size in weights.most_common()},
    )


def _types(model: "onnx.ModelProto") -> dict[str, str]:
    import onnx

    values: list[Any] = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    return {value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}


def _bytes(tensor: "onnx.TensorProto") -> int:
    import onnx

    count = 1
    for side in tensor.dims:
        count *= side
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
