"""Two gates of a GRU read the same: one convolution makes both.

sigmoid(W_z x + c_z), sigmoid(W_r x + c_r)   ->   sigmoid([W_z; W_r] x + [c_z; c_r])
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import ConvGru
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class MergedGru(nn.Module):
    """``ConvGru`` with one convolution for both gates."""

    def __init__(self, gru: ConvGru) -> None:
        super().__init__()
        self.gates = nn.Conv2d(gru.convz.in_channels, 2 * gru.convz.out_channels, 3, padding=1, device="meta")
        self.gates.weight = nn.Parameter(torch.cat((gru.convz.weight, gru.convr.weight)), requires_grad=False)
        assert gru.convz.bias is not None and gru.convr.bias is not None
        self.gates.bias = nn.Parameter(torch.cat((gru.convz.bias, gru.convr.bias)), requires_grad=False)
        self.convq = gru.convq

    def forward(self, state: Tensor, context: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """State [B, hidden, h, w], three contexts of the same shape, inputs [B, ..., h, w] -> the next state."""
        for_z, for_r, for_q = context
        x = torch.cat(inputs, dim=1)
        both = self.gates(torch.cat((state, x), dim=1)) + torch.cat((for_z, for_r), dim=1)
        z, r = torch.sigmoid(both).chunk(2, dim=1)
        q = torch.tanh(self.convq(torch.cat((r * state, x), dim=1)) + for_q)
        return (1 - z) * state + z * q


def check(network: nn.Module) -> str | None:
    """Any GRU whose context is computed once will do."""
    return None if modules_of(network, ConvGru) else "there is no GRU whose context is computed once"


@torch.no_grad()
def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every GRU."""
    return Saving(replace_modules(network, ConvGru, MergedGru))
