"""The readout multiplies the class token once per image, not once per patch.

W [x; c] + b   ->   W_x x + (W_c c + b),   W = [W_x | W_c]
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.midas.beit import PATCH
from cdm_export.reference_model.midas.network import Readout
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class SplitReadout(nn.Module):
    """``Readout`` with one layer for patches and one for the class token."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        width = linear.out_features
        self.patches = nn.Linear(width, width, bias=False, device="meta")
        self.cls = nn.Linear(width, width, device="meta")
        self.act = nn.GELU()
        self.patches.weight = nn.Parameter(linear.weight[:, :width].contiguous(), requires_grad=False)
        self.cls.weight = nn.Parameter(linear.weight[:, width:].contiguous(), requires_grad=False)
        self.cls.bias = linear.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, 1 + T, C] -> [B, T, C]."""
        out: Tensor = self.act(self.patches(tokens[:, 1:]) + self.cls(tokens[:, :1]))
        return out


def _linear(readout: Readout) -> nn.Module:
    return readout.project[0]


@torch.no_grad()
def _rewrite(readout: Readout) -> SplitReadout:
    linear = _linear(readout)
    assert isinstance(linear, nn.Linear)
    return SplitReadout(linear)


def check(network: nn.Module) -> str | None:
    """Every readout is a linear layer with a bias over two tokens."""
    found = modules_of(network, Readout)
    for path, readout in found.items():
        linear = _linear(readout)
        if not isinstance(linear, nn.Linear) or linear.in_features != 2 * linear.out_features:
            return f"{path} does not make one token of two"
        if reason := mismatch(path, linear, bias=True):
            return reason
    return None if found else "there is no readout of a class token"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every readout."""
    patches = (size.height // PATCH) * (size.width // PATCH)
    weights = [_linear(readout).get_parameter("weight") for readout in modules_of(network, Readout).values()]
    macs = sum((patches - 1) * weight.shape[0] ** 2 for weight in weights)
    return Saving(replace_modules(network, Readout, _rewrite), macs=macs)
