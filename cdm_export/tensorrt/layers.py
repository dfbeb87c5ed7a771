"""What an engine is made of, as its builder or its inspector says: kernels, their types, fusions.

Text in, records out. With a verbose logger and detailed profiling verbosity the builder of TensorRT-RTX 1.7 ends with
one line per kernel (``Name: ..., LayerType: ..., Inputs: [...], ..., Metadata: [ONNX Layer: ...]``). TensorRT's engine
inspector gives the same as JSON, with names of fields that changed over the versions.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cdm_export.onnx.node_names import module_of
from cdm_export.runtimes.contract import Record

_LAYER = re.compile(r"\bName: (?P<name>.+?), LayerType: (?P<rest>.+)$", flags=re.M)
_FIELD = re.compile(r", (Inputs|Constants|Outputs|TacticName|StreamId|EventId|Metadata):(?: |$)")
_DATATYPE = re.compile(r"\bDatatype: (\w+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_FUSED_ATTENTION = re.compile(r"(^|_)f?mha(_|$)")
_PRODUCT_KINDS = {"gemm", "correlation", "convolution", "deconv", "runtime_fusion"}
_OTHER_KINDS = {"kgen", "runtime_function"}
"""Generated kernels: elementwise, reductions and layout. They name the product beside them among their nodes."""
_OPAQUE_KINDS = {"Myelin", "myelin"}
_SYNCHRONIZATION = {"signal", "wait", "NoOp", "Constant"}
"""Lines between streams, where the builder uses more than one, and what takes no time: no kernels."""
_TYPE_WORDS = (("BF16", "BFloat16"), ("BFloat16", "BFloat16"), ("FP16", "Half"), ("Half", "Half"), ("FP32", "Float"),
               ("Float", "Float"), ("Int8", "Int8"), ("FP8", "FP8"), ("Int64", "Int64"), ("Int32", "Int32"),
               ("Bool", "Bool"))  # fmt: skip
"""How the inspector spells a type (``Half``, or ``Row major linear FP16 format``), the longer word first."""
_GENERATED_PRODUCT = re.compile(r"^(__myl_Fc|_gemm_)")
_PRODUCT_NODES = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
_WIDTH = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2}


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine."""

    name: str
    """The builder's name for it."""
    kind: str
    """``kgen`` (generated), ``gemm``, ``correlation`` (convolution), ``deconv``, ``runtime_fusion`` (product and
    epilogue), ``runtime_function``."""
    inputs: tuple[str, ...]
    """Datatype of each activation read: ``Float``, ``Half``, ``Int8``, ... Constants are not among them."""
    outputs: tuple[str, ...]
    """Datatype of each result."""
    nodes: tuple[str, ...]
    """Names of the ONNX nodes it computes, as far as the builder says; ``MODULE/Operator`` in our graphs."""
    stream: int
    """CUDA stream it runs on, 0 is the caller's."""
    tactic: str = ""
    """Name of the implementation that was chosen; empty where it is not told."""

    @property
    def precision(self) -> str:
        """Widest floating-point type read; what is written where nothing is read. Sums may well be wider inside."""
        types = self.inputs or self.outputs
        return max(types, key=lambda name: _WIDTH.get(name, 0), default="none")

    @property
    def is_opaque(self) -> bool:
        """Whether it is a whole subgraph of which nothing more is told (TensorRT before 10)."""
        return "ForeignNode" in self.name and self.kind in _OPAQUE_KINDS

    @property
    def is_fused_attention(self) -> bool:
        """Whether product, softmax and product are this one kernel."""
        return bool(_FUSED_ATTENTION.search(self.name))

    @property
    def is_product(self) -> bool:
        """Whether it is a matrix product or a convolution, fused attention included."""
        if self.is_fused_attention or _GENERATED_PRODUCT.match(self.name):
            return True
        if self.kind in _OTHER_KINDS:
            return False
        # A kind that is not known counts as a product when it holds one: no float32 product may hide in it.
        return self.kind in _PRODUCT_KINDS or any(operator(node) in _PRODUCT_NODES for node in self.nodes)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules whose products it computes (all its modules when none is known to be one); its name at worst."""
        found = [module_of(node) for node in self.product_nodes or self.nodes]
        return tuple(dict.fromkeys(module for module in found if module)) or (self.name,)

    @property
    def product_nodes(self) -> tuple[str, ...]:
        """Those of ``nodes`` that are matrix products or convolutions."""
        return tuple(node for node in self.nodes if operator(node) in _PRODUCT_NODES)


class EngineSummary(Record):
    """What an engine's layers amount to."""

    kernels: int
    """All of them."""
    streams: int
    """CUDA streams they run on; with more than one, independent parts overlap."""
    by_kind: dict[str, dict[str, int]]
    """Number of kernels: kind, then precision."""
    attention: tuple[str, ...]
    """Modules whose attention is one fused kernel, one entry per kernel, in order of execution."""
    float32_products: tuple[str, ...]
    """Modules whose matrix products or convolutions read float32, sorted."""


def operator(node: str) -> str:
    """Operator of a node named ``MODULE/Operator`` or ``MODULE/Operator_2``."""
    return re.sub(r"_\d+$", "", node.rpartition("/")[2])


def parse_layers(log: str) -> tuple[EngineLayer, ...]:
    """Kernels in the order they are launched, from the builder's verbose log; empty when it holds no layer table."""
    layers = []
    for match in _LAYER.finditer(log):
        kind, *fields = _FIELD.split(match["rest"])
        kind = kind.partition(",")[0]
        if kind in _SYNCHRONIZATION:
            continue
        text = dict(zip(fields[::2], fields[1::2], strict=True))
        layers.append(
            EngineLayer(
                name=match["name"],
                kind=kind,
                inputs=_datatypes(text, "Inputs"),
                outputs=_datatypes(text, "Outputs"),
                nodes=tuple(_ONNX_NODE.findall(text.get("Metadata", ""))),
                stream=int(text.get("StreamId", "0")),
                tactic=text.get("TacticName", ""),
            )
        )
    return tuple(layers)


def parse_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Kernels from the engine inspector's JSON; empty when it tells names only, or nothing."""
    try:
        found = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return ()
    layers = []
    for layer in found:
        if not isinstance(layer, dict) or layer.get("LayerType") in _SYNCHRONIZATION:
            continue  # a bare name: the engine was built without details
        layers.append(
            EngineLayer(
                name=str(layer.get("Name", "")),
                kind=str(layer.get("LayerType", "")),
                inputs=_inspected_types(layer, "Inputs"),
                outputs=_inspected_types(layer, "Outputs"),
                nodes=tuple(_ONNX_NODE.findall(str(layer.get("Metadata", "")))),
                stream=int(layer.get("StreamId", 0) or 0),
                tactic=str(layer.get("TacticName", "")),
            )
        )
    return tuple(layers)


def _inspected_types(layer: dict[str, Any], which: str) -> tuple[str, ...]:
    names = []
    for tensor in layer.get(which) or ():
        said = next((str(tensor[key]) for key in ("Datatype", "DataType", "Format/Datatype") if tensor.get(key)), "")
        names.append(next((name for word, name in _TYPE_WORDS if word in said), said or "unknown"))
    return tuple(names)


def summarize(layers: Iterable[EngineLayer]) -> EngineSummary:
    """Count kernels, fused attention and float32 products."""
    layers = tuple(layers)
    counts = Counter((layer.kind, layer.precision) for layer in layers)
    by_kind: dict[str, dict[str, int]] = {}
    for (kind, precision), count in sorted(counts.items()):
        by_kind.setdefault(kind, {})[precision] = count
    wide = {module for layer in layers if layer.is_product and layer.precision == "Float" for module in layer.modules}
    return EngineSummary(
        kernels=len(layers),
        streams=len({layer.stream for layer in layers}),
        by_kind=by_kind,
        attention=tuple("+".join(layer.modules) for layer in layers if layer.is_fused_attention),
        float32_products=tuple(sorted(wide)),
    )


def _datatypes(fields: dict[str, str], which: str) -> tuple[str, ...]:
    return tuple(_DATATYPE.findall(fields.get(which, "")))
