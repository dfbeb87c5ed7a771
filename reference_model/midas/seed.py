"""Seeded weights that behave as trained ones do: every branch moves its stream a little, attention looks somewhere."""

import math

import torch
from torch import nn

from cdm_export.reference_model.midas.beit import BeitAttention, BeitBlock
from cdm_export.reference_model.midas.swin2 import WindowAttention, WindowBlock

_BRANCH = 0.1
"""Scale of what a block adds."""


@torch.no_grad()
def seed(network: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter. Queries and keys are larger than their inputs' directions alone would make them, so that
    attention is far from uniform; position biases differ from offset to offset.
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4:
            transposed = isinstance(network.get_submodule(name.rpartition(".")[0]), nn.ConvTranspose2d)
            terms = parameter.shape[0] if transposed else parameter[0].numel()
            branch = 0.1 if name.endswith("conv2.weight") else 1.0
            parameter.normal_(0, branch * math.sqrt((1 if transposed else 2) / terms), generator=generator)
        elif parameter.ndim == 2:
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
        elif parameter.ndim == 1 and name.endswith("weight"):
            parameter.normal_(1, 0.1, generator=generator)  # a norm
        elif parameter.ndim == 1:
            parameter.normal_(0, 0.02, generator=generator)
        else:
            parameter.normal_(0, 0.5, generator=generator)  # the class token
    for module in network.modules():
        if isinstance(module, BeitBlock):
            module.gamma_1.normal_(_BRANCH, 0.02, generator=generator)
            module.gamma_2.normal_(_BRANCH, 0.02, generator=generator)
        elif isinstance(module, WindowBlock):
            module.norm1.weight.mul_(_BRANCH)
            module.norm2.weight.mul_(_BRANCH)
        elif isinstance(module, BeitAttention):
            module.qkv.weight[: 2 * module.proj.in_features] *= 2
            module.relative_position_bias_table.normal_(0, 0.5, generator=generator)
        elif isinstance(module, WindowAttention):
            module.cpb_mlp.get_parameter("2.weight").mul_(20)
            module.logit_scale.normal_(math.log(10), 0.3, generator=generator)
