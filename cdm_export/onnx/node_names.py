"""Names in the graph are the network's own: a message about a node tells a reader of the model where it is.

A node is called ``MODULE/Operator`` and the value a module hands on is called by the module, e.g.
``pretrained.blocks.3``. What the exporter noted beside its nodes (stack traces with paths of the exporting machine)
is dropped.
"""

import ast
from collections import Counter
from typing import TYPE_CHECKING

from cdm_export.precision.original_path import original_path
from cdm_export.reference_model.variant import NETWORK
from cdm_export.runtimes.graph_precision import within

if TYPE_CHECKING:
    import onnx_ir

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Module paths from the root to the operation, as the exporter of PyTorch writes them into a node's metadata."""


def name_after_modules(model: "onnx_ir.Model") -> None:
    """Rename nodes and module outputs in place. Names of graph inputs, outputs and weights stay."""
    paths = {node: _module_path(node) for node in model.graph}
    kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    taken = kept | set(model.graph.initializers)
    for value, name in _handed_on(model, paths).items():
        if value.name not in kept and name not in taken:
            value.name = name
            taken.add(name)
    count: Counter[str] = Counter()
    for node, path in paths.items():
        name = f"{path}/{node.op_type}" if path else node.op_type
        count[name] += 1
        node.name = name if count[name] == 1 else f"{name}_{count[name]}"
    for thing in (model.graph, *model.graph, *(value for node in model.graph for value in node.outputs)):
        thing.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.graph.doc_string = None


def module_of(node: str) -> str:
    """Module of a node named ``MODULE/Operator``; empty when it has none."""
    return node.rpartition("/")[0]


def _module_path(node: "onnx_ir.Node") -> str:
    """Path of the innermost module a node came from; empty for the interface and for what the exporter added."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    modules = [scope for scope in scopes[:-1] if scope not in ("", NETWORK)]
    return original_path(str(modules[-1]).removeprefix(f"{NETWORK}.")) if modules else ""


def _handed_on(model: "onnx_ir.Model", paths: "dict[onnx_ir.Node, str]") -> "dict[onnx_ir.Value, str]":
    """Values that are all a module hands on, each with the outermost such module."""
    leaving: dict[str, set[onnx_ir.Value]] = {}
    for node, path in paths.items():
        for value in node.outputs:
            readers = [paths[use.node] for use in value.uses()]
            for module in _parents(path):
                if value.is_graph_output() or any(not within(reader, module) for reader in readers):
                    leaving.setdefault(module, set()).add(value)
    named: dict[onnx_ir.Value, str] = {}
    for module in sorted(leaving, key=len):
        if len(leaving[module]) == 1:
            named.setdefault(next(iter(leaving[module])), module)
    return named


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)] if path else []
