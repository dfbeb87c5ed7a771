"""Is the engine what it should be? Checks, each passed, failed or unknown by the library's own account of it."""

from collections.abc import Sequence
from typing import Literal

from cdm_export.onnx.node_names import module_of
from cdm_export.runtimes.engine_record import EngineCheck, LayerReport
from cdm_export.runtimes.graph_precision import PrecisionPlan
from cdm_export.tensorrt.builder import Attention
from cdm_export.tensorrt.layers import EngineLayer, summarize

_LOW = {"fp16": "Half", "fp16-attn32": "Half", "bf16": "BFloat16", "int8-fp16": "Half"}
"""What products outside the islands read, by precision."""
_SHOWN = 4
"""Modules named in a sentence."""

EvidenceSource = Literal["layer table in the builder's log", "engine inspector", "none"]
Outcome = Literal["passed", "failed", "unknown"]


def gather(
    layers: Sequence[EngineLayer],
    source: EvidenceSource,
    precision: str,
    precision_plan: PrecisionPlan | None,
    attentions: Sequence[Attention],
    *,
    tf32: bool,
    fusion_broken: bool,
    integers: Sequence[str] = (),
) -> LayerReport:
    """Judge an engine. ``tf32``: as the builder's configuration reports it. ``precision_plan``: the graph's islands.
    ``integers``: modules whose products the graph quantizes.
    """
    summary = summarize(layers)
    checks = [_types(layers, precision, precision_plan), _tf32(layers, precision, tf32)]
    if integers:
        checks.append(_integers(layers, integers))
    if attentions and precision in ("fp16", "bf16", "int8-fp16"):
        checks.append(_attention(layers, attentions, broken=fusion_broken))
    return LayerReport(
        source=source if layers else "none",
        kernels=summary.kernels,
        by_kind=summary.by_kind,
        fused_attention=len(summary.attention),
        float32_products=summary.float32_products if precision in _LOW else (),
        checks=tuple(checks),
    )


def _types(layers: Sequence[EngineLayer], precision: str, precision_plan: PrecisionPlan | None) -> EngineCheck:
    """Every product reads the type its graph says."""
    low = _LOW.get(precision)
    if low is None:
        check = "every matrix product and convolution reads float32"
    else:
        check = f"every matrix product and convolution outside the float32 islands reads {low}"
    products = [layer for layer in layers if layer.is_product]
    unclear = [layer for layer in layers if layer.is_opaque or (layer.is_product and layer.precision in _UNKNOWN)]
    wrong = [layer for layer in products if not _fits(layer, low, precision_plan)]
    if wrong:
        modules = sorted({f"{module} ({layer.precision})" for layer in wrong for module in layer.modules})
        return _check(check, "failed", f"{len(wrong)} of {len(products)} do not: {_some(modules)}", fatal=True)
    if unclear or not products:
        detail = f"{len(unclear)} layers do not tell their types" if unclear else "no layers are told"
        return _check(check, "unknown", detail, fatal=True)
    islands = sum(layer.precision == "Float" for layer in products) if low else 0
    detail = f"{len(products)} products" + (f", {islands} of them in islands" if islands else "")
    return _check(check, "passed", detail, fatal=True)


_UNKNOWN = ("none", "unknown")


def _fits(layer: EngineLayer, low: str | None, precision_plan: PrecisionPlan | None) -> bool:
    if layer.precision in _UNKNOWN or layer.is_opaque:
        return True  # counted as not visible
    if low is not None and "Int8" in layer.inputs and layer.precision in ("Int8", low):
        return True
    if low is None:
        return layer.precision == "Float"
    if layer.precision == low:
        return True
    if layer.precision != "Float" or precision_plan is None:
        return False
    return all(precision_plan.multiplies_in_fp32(module) for module in layer.modules)


def _integers(layers: Sequence[EngineLayer], integers: Sequence[str]) -> EngineCheck:
    """Every product that the graph quantizes reads integers; one that does not is right, but slower."""
    check = "every quantized product reads Int8"
    if not layers or any(layer.is_opaque for layer in layers):
        return _check(check, "unknown", "the layers of the engine are not told", fatal=False)
    wanted = set(integers)
    reading, others = (
        [layer for layer in layers if layer.is_product and ("Int8" in layer.inputs) is integer]
        for integer in (True, False)
    )
    # A module that runs twice has two products, and both count.
    found = {node for layer in reading for node in layer.product_nodes}
    floats = {module_of(node) for layer in others for node in layer.product_nodes if node not in found}
    left = sorted(wanted - {module for layer in reading for module in layer.modules} | wanted & floats)
    if left:
        return _check(check, "failed", f"{len(left)} of {len(wanted)} do not: {_some(left)}", fatal=False)
    return _check(check, "passed", f"{len(wanted)} products", fatal=False)


def _tf32(layers: Sequence[EngineLayer], precision: str, tf32: bool) -> EngineCheck:
    """The flag as the configuration reports it, and what tactics are called."""
    if precision == "tf32":
        check = "float32 products may be rounded to TF32"
        return _check(check, "passed" if tf32 else "failed", "the builder's flag, read back", fatal=False)
    check = "no float32 product is rounded to TF32"
    named = sorted({layer.tactic for layer in layers if "tf32" in layer.tactic.lower()})
    if tf32 or named:
        return _check(check, "failed", _some(named) if named else "the builder's flag is set", fatal=True)
    return _check(check, "passed", "the builder's flag is off, read back; no tactic is named after it", fatal=True)


def _attention(layers: Sequence[EngineLayer], attentions: Sequence[Attention], *, broken: bool) -> EngineCheck:
    """One kernel per attention; or none, where fusing them is the fault."""
    fused = sum(layer.is_fused_attention for layer in layers)
    count = f"{fused} of {len(attentions)}"
    if broken:
        check = "no attention is one fused kernel (the workaround)"
        outcome: Outcome = "unknown" if not layers else "failed" if fused else "passed"
        return _check(check, outcome, count, fatal=True)
    check = "every attention is one fused kernel"
    if not layers or any(layer.is_opaque for layer in layers):
        return _check(check, "unknown", "the layers of the engine are not told", fatal=False)
    if fused >= len(attentions):
        return _check(check, "passed", count, fatal=False)
    missing = len(attentions) - fused
    traffic = 2 * missing * sum(attention.bytes for attention in attentions) / len(attentions)
    cost = f"{count}: the others write and read their probabilities, {traffic / 1e6:,.0f} MB more per frame"
    return _check(check, "failed", cost, fatal=False)


def _check(check: str, outcome: Outcome, detail: str, *, fatal: bool) -> EngineCheck:
    return EngineCheck(name=check, outcome=outcome, detail=detail, fatal=fatal)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
