"""What a family says of its network for reduced precision, as data: modules by path, ``*`` standing for anything but a
dot. A network without any of it is planned from its measured ranges and its layers alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from cdm_export.runtimes.graph_precision import Island


def matches(path: str, pattern: str) -> bool:
    """Whether a module's path is one that a pattern means."""
    parts, patterns = path.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def matching(paths: Iterable[str], patterns: Iterable[str]) -> Iterator[str]:
    """The paths that one of the patterns means, in their own order."""
    wanted = tuple(patterns)
    return (path for path in paths if any(matches(path, pattern) for pattern in wanted))


@dataclass(frozen=True)
class ResidualStream:
    """Blocks that each add something to one stream, which may stay FP32 while what is added is computed lower."""

    blocks: str
    """Pattern of the blocks, in order."""
    source: str
    """Module whose own operations make what enters the first block."""
    adds: tuple[str, ...]
    """Children of a block whose results are added to the stream."""


@dataclass(frozen=True)
class PrecisionPolicy:
    """What stays FP32 beside what the measured ranges decide."""

    islands: tuple[Island, ...] = ()
    """Modules that stay FP32 in a graph of lower precision, whatever the ranges."""
    sums: tuple[tuple[str, str], ...] = ()
    """(pattern, reason) of modules whose elementwise sums stay FP32."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(pattern, reason) of modules that are given FP32 and do with less."""
    streams: tuple[ResidualStream, ...] = ()
    """Residual streams; in BF16 all of them are FP32."""
    bf16: tuple[tuple[str, Literal["fp32", "low"]], ...] = ()
    """(pattern, type of the output) of modules that stay FP32 in BF16, whose 8 bits they cannot do with."""


@dataclass(frozen=True)
class Smoothing:
    """A layer whose input channels can be scaled for nothing, because what makes its input can be divided by the
    same.
    """

    layer: str
    """Path of the layer, relative to its block."""
    divided: str
    """Path of what is divided along its output channels: a norm, or a linear layer of which only the value rows are."""


@dataclass(frozen=True)
class QuantizationPolicy:
    """What 8-bit integers are kept away from, what stands or falls together, what can be smoothed."""

    never: tuple[str, ...] = ()
    """Patterns of modules whose layers stay out of INT8, beside those that read the inputs or write the output."""
    parts: tuple[str, ...] = ()
    """Patterns of modules that are quantized as a whole or not at all; other layers go by their section."""
    blocks: str = ""
    """Pattern of the blocks that ``smoothings`` are in; empty for none."""
    smoothings: tuple[Smoothing, ...] = ()
    """Of every block, in this order."""
