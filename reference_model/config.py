"""Sizes of the networks, free of PyTorch so that listing models is instant on a device without it."""

from dataclasses import dataclass
from typing import Literal

PATCH = 14
"""Pixels per patch side of every DINOv2 encoder."""

ChannelOrder = Literal["bgr", "rgb"]
"""Plane order in which a network wants its image."""


@dataclass(frozen=True)
class VitConfig:
    """Size of one encoder."""

    width: int
    """Channels per token, C."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads."""
    hooks: tuple[int, ...]
    """0-based indices of the blocks whose outputs the decoder reads."""
    ffn: Literal["mlp", "swiglu"] = "mlp"
    """Feed-forward kind: GELU MLP of 4C, or the fused SwiGLU of the giant model."""


@dataclass(frozen=True)
class DptConfig:
    """Size of the decoder."""

    features: int
    """Channels of the fusion path."""
    out_channels: tuple[int, int, int, int]
    """Channels of the four reassembled levels, finest first."""
