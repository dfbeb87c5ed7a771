"""Convex upsampling by nine slices and a pixel shuffle: no tensor has more than five axes.

sum over k of share_k * neighbor_k,   neighbor_k a slice of the padded flow
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import ConvexUpsample
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class SlicedUpsample(nn.Module):
    """``ConvexUpsample``, plane by plane."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, flow: Tensor, weights: Tensor) -> Tensor:
        """Flow [B, D, h, w] in coarse pixels and logits [B, 9 factor^2, h, w] -> [B, D, factor h, factor w]."""
        batch, planes, height, width = flow.shape
        shares = weights.reshape(batch, 9, self.factor**2, height, width).softmax(dim=1)
        around = F.pad(self.factor * flow, (1, 1, 1, 1))
        fine = []
        for plane in range(planes):
            parts = [
                shares[:, 3 * row + column] * around[:, plane : plane + 1, row : row + height, column : column + width]
                for row in range(3)
                for column in range(3)
            ]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            fine.append(F.pixel_shuffle(total, self.factor))
        return fine[0] if planes == 1 else torch.cat(fine, dim=1)


def check(network: nn.Module) -> str | None:
    """Any convex upsampling will do."""
    return None if modules_of(network, ConvexUpsample) else "there is no convex upsampling"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every upsampling."""
    return Saving(replace_modules(network, ConvexUpsample, lambda one: SlicedUpsample(one.factor)))
