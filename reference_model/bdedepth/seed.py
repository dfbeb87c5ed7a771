"""Seeded weights that let an image through sixty layers: neither silence nor overflow, no activation that is none."""

import math

import torch
from torch import Tensor, nn

from cdm_export.reference_model.bdedepth.blocks import BasicBlock, Bottleneck
from cdm_export.reference_model.bdedepth.hrnet import HighResolutionModule

_BRANCH = 0.2
"""Of what is added to an identity; as in trained networks it is the smaller part."""


@torch.no_grad()
def seed(network: nn.Module, generator: torch.Generator) -> None:
    """Fill a BDEdepth in place. Statistics of norms differ from 0 and 1, so that an error in folding them shows."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
            if module.bias is not None:
                module.bias.normal_(0, 0.05, generator=generator)
        elif isinstance(module, nn.PReLU):
            module.weight.uniform_(0.1, 0.4, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for tensor, middle in _statistics(module):
                tensor.uniform_(middle - 0.2, middle + 0.2, generator=generator)
    for module in network.modules():
        if isinstance(module, BasicBlock):
            _scale(module.bn2)
        elif isinstance(module, Bottleneck):
            _scale(module.bn3)
        elif isinstance(module, HighResolutionModule):
            for norm in _last_norms(module):
                _scale(norm)


def _statistics(norm: nn.BatchNorm2d) -> list[tuple[Tensor, float]]:
    """Tensors of a norm, each with the value that would make it the identity."""
    assert norm.running_mean is not None and norm.running_var is not None
    return [(norm.weight, 1.0), (norm.bias, 0.0), (norm.running_mean, 0.0), (norm.running_var, 1.0)]


def _last_norms(module: HighResolutionModule) -> list[nn.BatchNorm2d]:
    """Norms at whose output branches are added to one another."""
    found = []
    for fuse in module.fuse_layers.children():
        for part in fuse.children():
            found.append([norm for norm in part.modules() if isinstance(norm, nn.BatchNorm2d)][-1])
    return found


def _scale(norm: nn.BatchNorm2d) -> None:
    norm.weight.mul_(_BRANCH)
    norm.bias.mul_(_BRANCH)
