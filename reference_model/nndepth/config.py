"""nndepth's stereo networks; they are not the papers' own, and take no weights of theirs."""

from dataclasses import dataclass

FEATURES = 256
"""Channels that are correlated."""
LEVELS, RADIUS = 4, 4
"""Of the correlation: levels of the pyramid, and columns to each side of a place."""
FACTOR = 8
"""Pixels of the image per pixel of the GRU."""


@dataclass(frozen=True)
class NndepthRaftConfig:
    """One network."""

    name: str
    """Registry name."""
    context: int
    """Channels of the context."""
    million_parameters: float
    """Parameters / 1e6."""


CONFIGS = (
    NndepthRaftConfig("nndepth-raft-64", 64, 4.194),
    NndepthRaftConfig("nndepth-raft-128", 128, 4.587),
)
ITERATIONS = 12
"""Of the original script."""
