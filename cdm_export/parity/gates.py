"""How far an artifact may be from PyTorch, by precision and by what its error is measured in.

The one table of limits; every comparison is ``value <= limit``, so that NaN fails.
"""

from dataclasses import dataclass, replace

from cdm_export.runtimes.contract import COMPRESSED, INTEGER, QUANTIZED, ErrorClass


@dataclass(frozen=True)
class Gate:
    """Limits for one precision."""

    mean: float
    """Mean error of a frame."""
    p99: float
    """99th percentile of it."""
    max: float | None
    """Largest; None where it is reported but not gated."""
    mask: float
    """Share of pixels whose validity may differ, among those clearly away from the threshold."""
    of_spread: float | None = None
    """The mean error as a share of the reference's range, too: a small error of an output that hardly varies says
    nothing. None where errors are shares of something already."""


GATES: dict[str, Gate] = {
    "fp32": Gate(mean=5e-6, p99=5e-5, max=1e-3, mask=0.0),
    "fp16": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    "fp16-attn32": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    "tf32": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    "bf16": Gate(mean=5e-3, p99=2e-2, max=None, mask=1e-4),
    "fp16-image": Gate(mean=1e-3, p99=5e-3, max=None, mask=1e-4),
    **{name: Gate(mean=1e-2, p99=5e-2, max=None, mask=1e-3) for name in (*INTEGER, *COMPRESSED, QUANTIZED)},
}
"""Relative to depth, or a share of the output's range."""

_PIXELS: dict[str, Gate] = {
    "fp32": Gate(mean=1e-3, p99=1e-2, max=0.1, mask=0.0, of_spread=1e-3),
    **{name: Gate(mean=0.05, p99=0.5, max=None, mask=1e-4) for name in ("fp16", "fp16-attn32", "tf32", "fp16-image")},
    "bf16": Gate(mean=0.1, p99=1.0, max=None, mask=1e-4),
    **{name: Gate(mean=0.2, p99=2.0, max=None, mask=1e-3) for name in (*INTEGER, *COMPRESSED, QUANTIZED)},
}
"""Disparity, pixels of the network's image. Those of reduced precisions are for trained weights."""


def gate_of(precision: str, error_class: ErrorClass) -> Gate:
    """The gate that an artifact of a precision has to pass. Relative depth and shares of a range have the same one."""
    return (_PIXELS if error_class is ErrorClass.PIXELS else GATES)[precision]


AMPLIFIED = 3.0
"""Seeded recurrent weights amplify rounding: reduced precision may be wrong by so many times what rounding the images
alone to it makes, where that is more than its gate."""


def rounds(precision: str) -> bool:
    """Whether a precision's error is one of rounding to 16 bits."""
    return precision in ("fp16", "fp16-attn32", "tf32", "fp16-image", "bf16")


def amplified(gate: Gate, mean: float, p99: float) -> Gate:
    """``gate`` for seeded recurrent weights, whose output moves by ``mean`` and ``p99`` when the images are rounded."""
    return replace(gate, mean=max(gate.mean, AMPLIFIED * mean), p99=max(gate.p99, AMPLIFIED * p99))


LEAST_COMPARABLE = 0.10
"""Share of pixels that must be comparable; under it a frame is inconclusive, which fails."""

PREPROCESSING_LIMIT = 1e-5
"""Largest absolute difference of a network input (0..1, or 1/m relative to its value) from the stored one."""
