"""Inverse depth repeated to three channels: sum the patch embedding's weights instead.

conv(W, repeat(d, 3)) = conv(W[:, 0] + W[:, 1] + W[:, 2], d)
"""

import torch
from torch import nn

from cdm_export.transforms.replace import replace_modules
from reference_model.cdm.network import Cdm, RepeatChannels


@torch.no_grad()
def apply(network: nn.Module, rows: int, columns: int) -> int:
    """Give every depth encoder a one-channel patch embedding."""
    for module in network.modules():
        if isinstance(module, Cdm) and isinstance(module.depth_channels, RepeatChannels):
            proj = module.depth_pretrained.patch_embed.proj
            proj.weight = nn.Parameter(proj.weight.sum(dim=1, keepdim=True), requires_grad=False)
            proj.in_channels = 1
    return replace_modules(network, RepeatChannels, lambda _: nn.Identity())
