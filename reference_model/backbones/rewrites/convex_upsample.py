"""Convex upsampling by nine slices and a pixel shuffle: no tensor has more than five axes.

    sum over k of share_k * neighbor_k,   neighbor_k a slice of the padded flow

Only the horizontal flow is upsampled, the one that is read.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import ConvexUpsample
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class SlicedUpsample(nn.Module):
    """``ConvexUpsample`` of one plane."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, flow: Tensor, weights: Tensor) -> Tensor:
        """Flow [B, 1, h, w] in coarse pixels and logits [B, 9 factor^2, h, w] -> [B, 1, factor h, factor w]."""
        batch, _, height, width = flow.shape
        shares = weights.reshape(batch, 9, self.factor**2, height, width).softmax(dim=1)
        around = F.pad(self.factor * flow, (1, 1, 1, 1))
        parts = [
            shares[:, 3 * row + column] * around[:, :, row : row + height, column : column + width]
            for row in range(3)
            for column in range(3)
        ]
        fine = parts[0]
        for part in parts[1:]:
            fine = fine + part
        return F.pixel_shuffle(fine, self.factor)


def check(network: nn.Module) -> str | None:
    """Any convex upsampling will do."""
    return None if modules_of(network, ConvexUpsample) else "there is no convex upsampling"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every upsampling."""
    return Saving(replace_modules(network, ConvexUpsample, lambda one: SlicedUpsample(one.factor)))
