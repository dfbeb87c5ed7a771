"""Faults of TensorRT releases that hit this kind of network, with their sources; shown before a build, not after.

Delete an entry when no supported release is in its range. The golden frames decide in any case: what is listed here may
well pass, and what is not may fail.
"""

from collections.abc import Collection
from dataclasses import dataclass

from cdm_export.runtimes.engine_record import Machine
from cdm_export.runtimes.tensorrt_api import version_tuple


@dataclass(frozen=True)
class KnownIssue:
    """One fault."""

    first: str
    """Oldest release known to have it."""
    beyond: str
    """Oldest release after it not known to have it."""
    precisions: tuple[str, ...]
    """Precisions concerned."""
    fault: str
    """What goes wrong."""
    source: str
    """Where it was reported."""
    workaround: str
    """What to do."""
    compute_capability: str | None = None
    """Only on this GPU generation; None for all."""
    operator: str | None = None
    """Only in graphs that have it; None for all."""

    def concerns(self, machine: Machine, precision: str, operators: Collection[str]) -> bool:
        """Whether a build there, of a graph with these operators, is warned."""
        if machine.backend != "tensorrt" or precision not in self.precisions:
            return False
        if self.operator is not None and self.operator not in operators:
            return False
        gpu = machine.gpu
        if self.compute_capability and (gpu is None or gpu.compute_capability != self.compute_capability):
            return False
        return version_tuple(self.first) <= version_tuple(machine.version) < version_tuple(self.beyond)

    def __str__(self) -> str:
        return f"known with TensorRT {self.first}: {self.fault} ({self.source}). {self.workaround}"


_ALL = ("fp32", "tf32", "fp16", "fp16-attn32", "bf16")
_HALF = ("fp16", "bf16")

KNOWN_ISSUES: tuple[KnownIssue, ...] = (
    KnownIssue(
        "8.6", "10", ("fp16",),
        "types are the builder's choice, within a permission; attention is not fused on Orin",
        "NVIDIA/TensorRT#3575", "JetPack 6.2 has 10.3, which builds in the graph's types.",
    ),
    KnownIssue(
        "10.3", "10.4", _HALF,
        "ViT encoders wrong in half precision, right in 8.6 and 10.12: DINOv3, Depth Anything V2 on AGX Orin",
        "NVIDIA/TensorRT#4723, spacewalk01/depth-anything-tensorrt#49",
        "If the self-test fails, fp16-attn32 or fp32 is tried.",
    ),
    KnownIssue(
        "10.4", "10.6", _ALL,
        "ViT encoders miscompiled even in float32, NaN in half (DINOv3 ViT-B)",
        "NVIDIA/TensorRT#4742, Intellindust-AI-Lab/DEIMv2#112", "Use 10.6 or later; no precision is safe.",
    ),
    KnownIssue(
        "10.7", "10.8", _ALL,
        "attention exported from scaled_dot_product_attention wrong even in float32",
        "NVIDIA/TensorRT#4333, NVIDIA/TensorRT#4328",
        "Bundles have the explicit form that was right there: scale on q, then product, softmax, product.",
    ),
    KnownIssue(
        "10.13", "10.14", _HALF,
        "projections that share a LayerNorm's output merged wrongly at batch 1 (Thor)",
        "NVIDIA/TensorRT-Edge-LLM#151",
        "Self-attention here has one projection. If the self-test fails: __LUNOWUD='-peep:fc_h_fusion=off'.",
        "11.0",
    ),
    KnownIssue(
        "10.16", "10.17", _HALF,
        "fused attention silently wrong in half precision (SAM3), although trtexec says PASSED",
        "NVIDIA/TensorRT#4837", "If the self-test fails, fp16-attn32, unfused attention or fp32 is tried.",
        "12.0",
    ),
    KnownIssue(
        "10.13", "11.3", _ALL,
        "image sampling wrong without an error, in graphs of opset 20 and in typed ones",
        "NVIDIA/TensorRT#4646, pytorch/TensorRT#4074",
        "The self-test shows it; stereo networks that correlate whole rows do without.",
        operator="GridSample",
    ),
)  # fmt: skip
"""In the order of releases."""


def concerning(machine: Machine, precision: str, operators: Collection[str] = ()) -> list[KnownIssue]:
    """Known faults of a machine's release in a precision, for a graph with these operators."""
    return [issue for issue in KNOWN_ISSUES if issue.concerns(machine, precision, operators)]
