"""What is tried, in which order: half precision, then what gets round its known faults, then float32."""

from dataclasses import dataclass

from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.bundle import Artifact, Bundle
from cdm_export.runtimes.contract import Precision
from cdm_export.runtimes.errors import InputError, did_you_mean
from cdm_export.runtimes.graph_precision import PrecisionPlan
from cdm_export.runtimes.selection import executions

ATTENTION_BROKEN = "fusion-breaker"
"""Attention probabilities become outputs, so that no kernel can keep them to itself."""

_ORDER: tuple[tuple[Precision, str], ...] = (
    ("fp16", ""),
    ("fp16-attn32", ""),
    ("fp16", ATTENTION_BROKEN),
    ("fp32", ""),
)


@dataclass(frozen=True)
class Attempt:
    """One engine to build."""

    precision: Precision
    """What to compute in."""
    workaround: str
    """Empty, or what is done to the network."""
    artifact: Artifact | None
    """What to build from; None when the bundle does not hold it."""
    precision_plan: PrecisionPlan | None
    """Islands of the graph."""
    integers: tuple[str, ...] = ()
    """Modules whose products are of integers."""

    def __str__(self) -> str:
        return f"{self.precision} with {self.workaround}" if self.workaround else self.precision


def attempts(bundle: Bundle, backend: Backend, precision: str, fallbacks: bool) -> list[Attempt]:
    """What to try. ``precision`` ``auto`` means fp16; fallbacks follow what was asked for, if wanted.

    Raises InputError for a precision the backend does not compute in, or that the bundle has no graph for.
    """
    if precision not in ("auto", *backend.precisions):
        raise InputError(
            f"'{backend.name}' does not build {precision}. {did_you_mean(precision, ['auto', *backend.precisions])}"
        )
    order = _order(precision)
    planned = [_attempt(bundle, backend, name, workaround) for name, workaround in (order if fallbacks else order[:1])]
    if precision != "auto" and planned[0].artifact is None:
        made = sorted({artifact.precision for artifact in bundle.manifest.artifacts})
        raise InputError(
            f"{bundle.path} has no {backend.precisions[precision][0]} graph; it has {', '.join(made)}",
            "Export it again with "
            + (
                "--precision fp32,fp16,int8 --calibration FRAMES."
                if "int8" in precision
                else f"--precision fp32,{precision}."
            ),
        )
    return planned


def _order(precision: str) -> tuple[tuple[Precision, str], ...]:
    """From what was asked for onwards; what has no fallbacks of its own has float32."""
    if precision == "auto":
        return _ORDER
    if precision == "int8-fp16":
        return (("int8-fp16", ""), *_ORDER)
    if precision == "bf16":
        return (("bf16", ""), _ORDER[-1])
    if precision == "tf32":
        return (("tf32", ""), _ORDER[-1])
    first = next(index for index, (name, _) in enumerate(_ORDER) if name == precision)
    return _ORDER[first:]


def _attempt(bundle: Bundle, backend: Backend, precision: Precision, workaround: str) -> Attempt:
    artifact = next((found for found, computed in executions(bundle, backend) if computed == precision), None)
    if artifact is None:
        return Attempt(precision, workaround, None, None)
    integers = tuple(artifact.quantization.steps) if artifact.quantization else ()
    return Attempt(precision, workaround, artifact, artifact.precision_plan, integers)
