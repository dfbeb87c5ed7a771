"""RAFT-Stereo's published configurations, whose flags no file of weights holds."""

from dataclasses import dataclass
from typing import Literal

HIDDEN = 128
"""Channels of every GRU's state, and of its context."""
LEVELS, RADIUS = 4, 4
"""Of the correlation: levels of the pyramid, and columns to each side of a place."""


@dataclass(frozen=True)
class RaftStereoConfig:
    """One published network."""

    name: str
    """Registry name."""
    title: str
    """In words."""
    downsample: int
    """Halvings between the image and the finest GRU."""
    layers: int
    """GRUs, each on half the grid of the one before."""
    shared_backbone: bool
    """Whether features come from the context's encoder."""
    slow_fast: bool
    """Whether coarse GRUs run more often than fine ones."""
    context_norm: Literal["batch", "instance"]
    """Norm of the context's encoder."""
    iterations: int
    """Updates of the original script."""
    million_parameters: float
    """Parameters / 1e6, unused ones included."""
    published: str
    """Stems of the published files."""


CONFIGS = (
    RaftStereoConfig("raft-stereo", "RAFT-Stereo", 2, 3, False, False, "batch", 32, 11.116,
                     "raftstereo-sceneflow, raftstereo-eth3d, raftstereo-middlebury"),
    RaftStereoConfig("raft-stereo-realtime", "RAFT-Stereo, realtime", 3, 2, True, True, "batch", 7, 9.866,
                     "raftstereo-realtime"),
    RaftStereoConfig("raft-stereo-rvc", "RAFT-Stereo, Robust Vision Challenge 2022", 2, 3, False, False, "instance", 32,
                     11.109, "iraftstereo_rvc"),
)  # fmt: skip
