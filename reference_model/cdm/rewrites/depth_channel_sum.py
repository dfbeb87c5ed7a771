"""Inverse depth repeated to three channels: sum the patch embedding's weights instead.

conv(W, repeat(d, 3)) = conv(W[:, 0] + W[:, 1] + W[:, 2], d)
"""

import torch
from torch import nn

from cdm_export.reference_model.backbones.vit import patch_grid
from cdm_export.reference_model.cdm.network import Cdm, RepeatChannels
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


def check(network: nn.Module) -> str | None:
    """What repeats inverse depth is read by a patch embedding of three channels, and by nothing else."""
    repeated = modules_of(network, RepeatChannels)
    read = set()
    for path, module in network.named_modules():
        if isinstance(module, Cdm) and isinstance(module.depth_channels, RepeatChannels):
            inside = f"{path}." if path else ""
            read.add(f"{inside}depth_channels")
            proj = module.depth_pretrained.patch_embed.proj
            if reason := mismatch(f"{inside}depth_pretrained.patch_embed.proj", proj, in_channels=3, groups=1):
                return reason
    if elsewhere := sorted(repeated.keys() - read):
        return f"what reads {elsewhere[0]} is not known"
    return None if repeated else "no input is repeated to three channels"


@torch.no_grad()
def apply(network: nn.Module, size: Size) -> Saving:
    """Give every depth encoder a one-channel patch embedding."""
    rows, columns = patch_grid(size)
    macs = 0
    for module in network.modules():
        if isinstance(module, Cdm) and isinstance(module.depth_channels, RepeatChannels):
            proj = module.depth_pretrained.patch_embed.proj
            proj.weight = nn.Parameter(proj.weight.sum(dim=1, keepdim=True), requires_grad=False)
            proj.in_channels = 1
            macs += 2 * proj.weight.numel() * rows * columns
    modules = replace_modules(network, RepeatChannels, lambda _: nn.Identity())
    return Saving(modules, macs=macs, nodes=2 * modules)
