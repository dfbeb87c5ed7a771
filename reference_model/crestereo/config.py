"""CREStereo as its authors publish it, and as nndepth trains it: one network on two scales."""

from dataclasses import dataclass
from typing import Literal

FEATURES = 256
"""Channels that are correlated."""
GROUPS = 4
"""Of channels, correlated apart."""
SEARCHED = 9
"""Places of the right image that a pixel is compared with."""


@dataclass(frozen=True)
class CreStereoConfig:
    """One network."""

    name: str
    """Registry name."""
    factor: Literal[4, 8]
    """Pixels of the image per pixel of the finest grid; the others are twice and four times as coarse."""
    sign: Literal[1, -1]
    """Of the flow that one grid hands to the next, and of the output."""
    head: int
    """Channels inside of what makes the step."""
    cascade: bool
    """Whether images of half the size go first, and give the finest grid its flow."""
    iterations: int
    """Updates of the finest grid; the coarser ones have half as many."""
    million_parameters: float
    """Parameters / 1e6."""


CRESTEREO = CreStereoConfig("crestereo", 4, -1, 256, True, 20, 5.433)
NNDEPTH = CreStereoConfig("nndepth-crestereo", 8, 1, 128, False, 12, 5.394)
