"""Depth Anything V1 and V2: one color image in, relative inverse depth or metric depth out.

Sources: "Depth Anything: Unleashing the Power of Large-Scale Unlabeled Data" (arXiv 2401.10891), "Depth Anything V2"
(arXiv 2406.09414) and their reference implementations (Apache-2.0). One DINOv2 encoder and a DPT decoder; state dict
and order of operations are the originals'. V1's last resize, to the size the image has already, is left out: with
aligned corners it hands on what it gets.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.dpt import DptHead
from cdm_export.reference_model.backbones.vit import DinoV2
from cdm_export.reference_model.config import PATCH
from cdm_export.reference_model.depth_anything.config import DepthAnythingConfig


class DepthAnything(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    def __init__(self, config: DepthAnythingConfig) -> None:
        super().__init__()
        self.max_depth = config.max_depth
        self.pretrained = DinoV2(config.encoder)
        self.depth_head = DptHead(config.encoder.width, config.decoder)

    def forward(self, image: Tensor) -> Tensor:
        """Normalized image [B, 3, H, W] -> [B, 1, H, W]: relative inverse depth, >= 0, or depth in meters."""
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        out: Tensor = self.depth_head(self.pretrained(image), rows, columns)
        return F.relu(out) if self.max_depth is None else out * self.max_depth
