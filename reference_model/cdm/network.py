"""Camera Depth Models (ByteDance): color and noisy sensor depth in, clean inverse depth out.

Source: "Manipulation as in Simulation: Enabling Accurate Geometry Perception in Robots" and its reference
implementation (Apache-2.0). Two DINOv2 encoders; at four levels the color token and the depth token of each patch
attend to each other; a DPT decoder. State dict and order of operations are the original's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.dpt import DptHead
from cdm_export.reference_model.backbones.vit import DinoV2
from cdm_export.reference_model.cdm.config import CdmConfig
from cdm_export.reference_model.config import PATCH

FUSION_HEADS = 4


class TokenPairFusion(nn.MultiheadAttention):
    """Self-attention over the two tokens (color, depth) of every patch; the two results are summed.

    A ``MultiheadAttention`` because the checkpoints hold its parameters under its names.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, FUSION_HEADS, batch_first=True)

    def forward(self, color: Tensor, depth: Tensor) -> Tensor:  # type: ignore[override]
        """Two [B, T, C] -> [B, T, C]."""
        batch, count, width = color.shape
        pairs = torch.stack((color, depth), dim=2).reshape(batch * count, 2, width)
        attended = super().forward(pairs, pairs, pairs)[0]
        return attended.sum(dim=1).reshape(batch, count, width)


class RepeatChannels(nn.Module):
    """The depth encoder is an unchanged RGB encoder: inverse depth goes in three times."""

    def forward(self, inverse_depth: Tensor) -> Tensor:
        """[B, 1, H, W] -> [B, 3, H, W]."""
        return inverse_depth.repeat(1, 3, 1, 1)


class Cdm(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    def __init__(self, config: CdmConfig) -> None:
        super().__init__()
        width = config.encoder.width
        self.pretrained = DinoV2(config.encoder)
        self.depth_pretrained = DinoV2(config.encoder)
        self.depth_channels = RepeatChannels()
        self.depth_head_rgbd = DptHead(2 * width, config.decoder)
        self.crossAtts = nn.ModuleList(TokenPairFusion(width) for _ in config.encoder.hooks)

    def forward(self, image: Tensor, inverse_depth: Tensor) -> Tensor:
        """Normalized image [B, 3, H, W] and inverse depth [B, 1, H, W] in 1/m -> inverse depth [B, 1, H, W], >= 0."""
        color_levels = self.pretrained(image)
        depth_levels = self.depth_pretrained(self.depth_channels(inverse_depth))
        levels = [
            torch.cat((color, fusion(color, depth)), dim=-1)
            for fusion, color, depth in zip(self.crossAtts, color_levels, depth_levels, strict=True)
        ]
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        return F.relu(self.depth_head_rgbd(levels, rows, columns))
