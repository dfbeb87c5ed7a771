"""How far an artifact may be from PyTorch, by precision (relative depth error).

The one table of limits; every comparison is ``value <= limit``, so that NaN fails.
"""

from dataclasses import dataclass

from cdm_export.runtimes.contract import COMPRESSED, INTEGER, QUANTIZED


@dataclass(frozen=True)
class Gate:
    """Limits for one precision."""

    mean: float
    """Mean relative depth error of a frame."""
    p99: float
    """99th percentile of it."""
    max: float | None
    """Largest; None where it is reported but not gated."""
    mask: float
    """Share of pixels whose validity may differ, among those clearly away from the threshold."""


GATES: dict[str, Gate] = {
    "fp32": Gate(mean=5e-6, p99=5e-5, max=1e-3, mask=0.0),
    "fp16": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    "fp16-attn32": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    "tf32": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    "bf16": Gate(mean=5e-3, p99=2e-2, max=None, mask=1e-4),
    "fp16-image": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    **{name: Gate(mean=1e-2, p99=5e-2, max=None, mask=1e-3) for name in (*INTEGER, *COMPRESSED, QUANTIZED)},
}

LEAST_COMPARABLE = 0.10
"""Share of pixels that must be comparable; under it a frame is inconclusive, which fails."""

PREPROCESSING_LIMIT = 1e-5
"""Largest absolute difference of a network input (0..1, or 1/m relative to its value) from the stored one."""
