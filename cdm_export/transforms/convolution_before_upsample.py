"""The decoder's 1x1 convolution after a bilinear upsampling is done before it.

    conv(upsample(x)) + b   ->   upsample(conv(x) + b)

A 1x1 convolution mixes channels, the upsampling mixes pixels with weights that sum to one.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from cdm_export.reference_model.backbones.dpt import DptDecoder, FeatureFusion, upsample
from cdm_export.reference_model.rewriting.conditions import pointwise
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class EarlyConvolutionFusion(nn.Module):
    """``FeatureFusion`` with its convolution on the coarse grid."""

    def __init__(self, fusion: FeatureFusion) -> None:
        super().__init__()
        self.out_conv = fusion.out_conv
        self.resConfUnit1 = fusion.resConfUnit1
        self.resConfUnit2 = fusion.resConfUnit2

    def forward(self, path: Tensor, level: Tensor | None, size: Sequence[int]) -> Tensor:
        """Path [B, F, h, w] and, except for the coarsest, level [B, F, h, w] -> [B, F, *size]."""
        if level is not None:
            path = path + self.resConfUnit1(level)
        return upsample(self.out_conv(self.resConfUnit2(path)), size)


def check(network: nn.Module) -> str | None:
    """Every fusion ends in a 1x1 convolution right after its upsampling."""
    heads = [(path, module) for path, module in network.named_modules() if isinstance(module, DptDecoder)]
    for path, head in heads:
        for level in range(1, 5):
            name = f"{path}.scratch.refinenet{level}"
            fusion = getattr(head.scratch, f"refinenet{level}", None)
            if type(fusion) is not FeatureFusion:
                return f"{name} is another fusion: {type(fusion).__name__}"
            if reason := pointwise(f"{name}.out_conv", fusion.out_conv):
                return reason
    return None if heads else "there is no DPT decoder"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite the four fusions of every decoder."""
    modules = macs = 0
    for head in network.modules():
        if not isinstance(head, DptDecoder):
            continue
        levels = [rows * columns for rows, columns in head.level_grids(size)]
        # Pixels, finest fusion first; each fusion's output is the next one's input, the finest doubles once more.
        grids = [4 * levels[0], *levels]
        for level, (after, before) in enumerate(pairwise(grids), start=1):
            fusion = getattr(head.scratch, f"refinenet{level}")
            setattr(head.scratch, f"refinenet{level}", EarlyConvolutionFusion(fusion))
            macs += (after - before) * fusion.out_conv.in_channels**2
            modules += 1
    return Saving(modules, macs=macs)
