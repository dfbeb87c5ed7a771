"""The FP16 graph once more with every attention core in FP32, sharing its weights' file.

For devices whose fused FP16 attention is wrong (TensorRT 10.3: NVIDIA/TensorRT#4723; 10.16 on sm_120: #4837): a core
in FP32 between casts is not fused. Delete when no supported TensorRT has a wrong one.
"""

from pathlib import Path

from cdm_export.onnx.node_names import module_of
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.graph_precision import Island, IslandKind, PrecisionPlan

REASON = "attention in FP32 is not fused"


def attention_in_fp32(precision_plan: PrecisionPlan, cores: list[str]) -> PrecisionPlan:
    """The precision_plan of the second graph; ``cores``: paths of the attention cores that are not FP32 yet."""
    islands = tuple(
        Island(kind=IslandKind.UNFUSED_ATTENTION, module=core, reason=REASON, output_dtype="low") for core in cores
    )
    return precision_plan.model_copy(update={"islands": precision_plan.islands + islands})


def write_with_fp32_attention(source: Path, target: Path, cores: list[str]) -> None:
    """Write ``target``: the graph of ``source`` with FP32 casts around each of ``cores``.

    Both lie in one folder, and the weights stay in the file that ``source`` names.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(source, load_external_data=False)
    graph = model.graph
    members = {core: [node for node in graph.node if module_of(node.name) == core] for core in cores}
    entering: dict[int, list[onnx.NodeProto]] = {}
    leaving: dict[int, onnx.NodeProto] = {}
    position = {node.name: index for index, node in enumerate(graph.node)}
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type != TensorProto.FLOAT16}
    for core, nodes in members.items():
        made = {name for node in nodes for name in node.output}
        wide: dict[str, str] = {}
        for node in nodes:
            for index, name in enumerate(node.input):
                if name in made or name in constants or not name:
                    continue
                if name not in wide:
                    wide[name] = f"{core}.float.{len(wide)}"
                    cast = helper.make_node(
                        "Cast", [name], [wide[name]], f"{core}/Cast_{len(wide)}", to=TensorProto.FLOAT
                    )
                    entering.setdefault(position[node.name], []).append(cast)
                node.input[index] = wide[name]
        last = nodes[-1]
        out = last.output[0]
        last.output[0] = f"{core}.float"
        leaving[position[last.name]] = helper.make_node(
            "Cast", [last.output[0]], [out], f"{core}/Cast", to=TensorProto.FLOAT16
        )
    ordered: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        ordered += [*entering.get(index, []), node, *([leaving[index]] if index in leaving else [])]
    del graph.node[:]
    graph.node.extend(ordered)
    del graph.value_info[:]  # types have changed
    with naming(target):
        onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), target)
    onnx.checker.check_model(target)
