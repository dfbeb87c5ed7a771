"""Inverse depth repeated to three channels: sum the patch embedding's weights instead.

conv(W, repeat(d, 3)) = conv(W[:, 0] + W[:, 1] + W[:, 2], d)
"""

import torch
from torch import nn

from cdm_export.transforms.replace import replace_modules
from cdm_export.transforms.saving import Saving
from reference_model.cdm.network import Cdm, RepeatChannels


@torch.no_grad()
def apply(network: nn.Module, rows: int, columns: int) -> Saving:
    """Give every depth encoder a one-channel patch embedding."""
    macs = 0
    for module in network.modules():
        if isinstance(module, Cdm) and isinstance(module.depth_channels, RepeatChannels):
            proj = module.depth_pretrained.patch_embed.proj
            proj.weight = nn.Parameter(proj.weight.sum(dim=1, keepdim=True), requires_grad=False)
            proj.in_channels = 1
            macs += 2 * proj.weight.numel() * rows * columns
    modules = replace_modules(network, RepeatChannels, lambda _: nn.Identity())
    return Saving(modules, macs=macs, nodes=2 * modules)
