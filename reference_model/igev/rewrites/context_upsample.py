"""Neighbors for the upsampling by nine slices of the padded disparity; no runtime has ``unfold``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.igev.layers import ContextUpsample
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class SlicedContextUpsample(nn.Module):
    """``ContextUpsample`` without ``unfold``."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, disparity: Tensor, logits: Tensor) -> Tensor:
        """Disparity [B, 1, h, w] in coarse pixels and logits [B, 9, factor h, factor w] -> as the logits, 1 plane."""
        height, width = disparity.shape[-2:]
        padded = F.pad(self.factor * disparity, (1, 1, 1, 1))
        slices = [padded[..., row : row + height, column : column + width] for row in range(3) for column in range(3)]
        near = F.interpolate(torch.cat(slices, dim=1), scale_factor=self.factor, mode="nearest")
        return (near * logits.softmax(dim=1)).sum(dim=1, keepdim=True)


def check(network: nn.Module) -> str | None:
    """Any upsampling by the context will do."""
    return None if modules_of(network, ContextUpsample) else "there is no upsampling by the context"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every upsampling."""
    return Saving(replace_modules(network, ContextUpsample, lambda one: SlicedContextUpsample(one.factor)))
