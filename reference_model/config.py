"""Sizes that networks share, free of PyTorch so that listing models is instant on a device without it."""

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
    last: Literal["relu", "sigmoid"] = "relu"
    """What follows the last convolution."""


DINO_DPT_UNUSED = ("mask_token", "refinenet4.resConfUnit1.")
"""Substrings of the names of parameters that checkpoints of these encoders and decoders hold and no forward reads."""

ENCODERS = {
    "vits": VitConfig(384, 12, 6, (2, 5, 8, 11)),
    "vitb": VitConfig(768, 12, 12, (2, 5, 8, 11)),
    "vitl": VitConfig(1024, 24, 16, (4, 11, 17, 23)),
    "vitg": VitConfig(1536, 40, 24, (9, 19, 29, 39), "swiglu"),
}
"""DINOv2 by size, with the hooks of Depth Anything V2 and CDM."""

DECODERS = {
    "vits": DptConfig(64, (48, 96, 192, 384)),
    "vitb": DptConfig(128, (96, 192, 384, 768)),
    "vitl": DptConfig(256, (256, 512, 1024, 1024)),
    "vitg": DptConfig(384, (1536, 1536, 1536, 1536)),
}
"""DPT decoder by size of the encoder, for all of them."""
