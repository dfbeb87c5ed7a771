"""The pair fusion's output projection goes into the decoder's 1x1 convolution, its only reader.

Of its input channels the first C hold the color token, the others the fusion's result:

    W [c; W_o m + b_o] + b   ->   [W_c | W_m W_o] [c; m] + (b + W_m b_o),   W = [W_c | W_m]
"""

from collections.abc import Iterator

import torch
from torch import nn

from cdm_export.reference_model.backbones.vit import patch_grid
from cdm_export.reference_model.cdm.network import Cdm
from cdm_export.reference_model.cdm.rewrites.two_token_attention import ClosedFormPairFusion
from cdm_export.reference_model.rewriting.conditions import mismatch, pointwise
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


@torch.no_grad()
def _fold(fusion: ClosedFormPairFusion, project: nn.Conv2d) -> None:
    out = fusion.out
    assert isinstance(out, nn.Linear) and project.bias is not None
    weight = project.weight.double()[:, :, 0, 0]
    color, mixed = weight.chunk(2, dim=1)
    bias = project.bias.double() + mixed @ out.bias.double()
    weight = torch.cat((color, mixed @ out.weight.double()), dim=1)[:, :, None, None]
    project.weight = nn.Parameter(weight.to(project.weight.dtype), requires_grad=False)
    project.bias = nn.Parameter(bias.to(project.bias.dtype), requires_grad=False)
    fusion.out = nn.Identity()  # type: ignore[assignment]


def _pairs(network: nn.Module) -> Iterator[tuple[str, ClosedFormPairFusion, nn.Module]]:
    """Every fusion in closed form, with its path and the module that reads it."""
    for path, module in network.named_modules():
        if isinstance(module, Cdm):
            for index, fusion in enumerate(module.crossAtts):
                if isinstance(fusion, ClosedFormPairFusion):
                    yield f"{path}.crossAtts.{index}", fusion, module.depth_head_rgbd.projects[index]


def check(network: nn.Module) -> str | None:
    """Every fusion's last layer and the 1x1 convolution that reads it have biases; nothing stands in between."""
    found = 0
    for path, fusion, project in _pairs(network):
        if type(fusion.out) is not nn.Linear:
            return f"{path}.out is no linear layer but {type(fusion.out).__name__}"
        reads = f"what reads {path}"
        reason = mismatch(f"{path}.out", fusion.out, bias=True) or pointwise(reads, project)
        if reason := reason or mismatch(reads, project, bias=True, groups=1):
            return reason
        found += 1
    return None if found else "there is no fusion of two tokens in closed form"


def apply(network: nn.Module, size: Size) -> Saving:
    """Fold every fusion that is in closed form already."""
    rows, columns = patch_grid(size)
    folded = macs = 0
    for _, fusion, project in _pairs(network):
        assert isinstance(project, nn.Conv2d)
        macs += rows * columns * project.in_channels**2 // 4
        _fold(fusion, project)
        folded += 1
    return Saving(folded, macs=macs, nodes=2 * folded)
