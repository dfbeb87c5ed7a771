"""What an artifact's graph computes in which type, and why: written where it is made, read on any device."""

from enum import Enum
from typing import Any, Literal

from pydantic import Field, model_validator

from cdm_export.runtimes.contract import Record

LowPrecision = Literal["fp16", "bf16"]
"""Precisions a graph can be typed in, beside FP32."""


class Rewrite(Record):
    """What one exact rewrite did to the network before it was exported, or why it was left out."""

    modules: int
    """Modules replaced."""
    macs: int
    """Multiply-adds saved per frame."""
    nodes: int
    """Graph nodes saved; negative where it made more."""
    skipped: str = ""
    """Why it does not apply to this network; empty where it was applied."""


class IslandKind(str, Enum):
    """What makes a module an FP32 island; formats that compute it otherwise go by this."""

    DECLARED = "declared"
    """The model's family wants it."""
    LAYER_NORM = "layer_norm"
    """The statistics of a LayerNorm."""
    ELEMENTWISE_SUMS = "elementwise_sums"
    """Sums between products, outside of any product's FP32 accumulator."""
    RANGE = "range"
    """Its values were measured to be too large."""
    RESOLUTION = "resolution"
    """Its values need more bits than the low precision has."""
    UNFUSED_ATTENTION = "unfused_attention"
    """Attention that no kernel shall fuse."""


class Island(Record):
    """A module that stays FP32 inside a graph of lower precision."""

    kind: IslandKind
    """What makes it one."""
    module: str
    """Path of the module in the network, which is also the beginning of its nodes' names."""
    reason: str
    """Why, with the figure that decided where one did."""
    output_dtype: Literal["fp32", "low"] = Field(validation_alias="hands_on", serialization_alias="hands_on")
    """Type of the module's output: FP32, or the graph's lower precision."""

    @model_validator(mode="before")
    @classmethod
    def _kind_by_reason(cls, data: Any) -> Any:
        """Manifests written before 0.2 have no kind; the one island that anything asks the kind of is known by the
        reason it was given then.
        """
        if isinstance(data, dict) and "kind" not in data:
            norm = data.get("reason") == "LayerNorm statistics"
            return {**data, "kind": IslandKind.LAYER_NORM if norm else IslandKind.DECLARED}
        return data


class PrecisionPlan(Record):
    """How a network was typed: enough to type it again in the same way."""

    precision: LowPrecision
    """What is not FP32."""
    islands: tuple[Island, ...]
    """Modules that compute in FP32."""
    residuals: dict[str, str]
    """Blocks that keep their residual stream in FP32, and why."""
    inputs: dict[str, str]
    """Modules that read FP32 in lower precision, and why that is harmless."""
    outputs: dict[str, str] = Field(default_factory=dict)
    """Modules of lower precision whose result is widened to FP32, and why."""
    products: dict[str, str] = Field(default_factory=dict)
    """Modules outside of islands whose own products are FP32, and why."""
    sums: dict[str, str] = Field(default_factory=dict)
    """Modules outside of islands in whose own operations FP32 meets a lower precision, which is widened, and why."""

    def reason(self, module: str) -> str | None:
        """Why a cast may stand in ``module``; None when nothing explains one there."""
        islands = {island.module: island.reason for island in self.islands}
        explained = {**islands, **self.residuals, **self.outputs, **self.inputs}
        inside = next((why for path, why in explained.items() if within(module, path)), None)
        return inside or self.products.get(module) or self.sums.get(module)

    def computes_in_fp32(self, module: str) -> bool:
        """Whether ``module`` is (in) an island."""
        return any(within(module, island.module) for island in self.islands)

    def multiplies_in_fp32(self, module: str) -> bool:
        """Whether the products of ``module`` are FP32: in an island, or because of what it reads."""
        return self.computes_in_fp32(module) or module in self.products


class GraphAudit(Record):
    """What is in a graph, counted from its own types."""

    nodes: dict[str, dict[str, int]]
    """Nodes by operator and element type of their first output."""
    casts: dict[str, int]
    """Casts by what explains them."""
    weights_mb: dict[str, float]
    """Size of the weights by element type, MB."""


def within(module: str, path: str) -> bool:
    """Whether ``module`` is ``path`` or inside it."""
    return module == path or module.startswith(f"{path}.")
