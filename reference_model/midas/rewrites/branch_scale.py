"""BEiT's scale per channel goes into the linear layer before it.

g * (W x + b)   ->   (diag(g) W) x + g * b
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.midas.beit import BeitBlock
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class PlainBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, block: BeitBlock) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = block.attn
        self.norm2 = block.norm2
        self.mlp = block.mlp

    def forward(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """[B, 1 + rows*columns, C] -> the same."""
        tokens = tokens + self.attn(self.norm1(tokens), rows, columns)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


@torch.no_grad()
def _scale(linear: nn.Linear, gamma: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight * gamma[:, None], requires_grad=False)
    linear.bias = nn.Parameter(linear.bias * gamma, requires_grad=False)


def _rewrite(block: BeitBlock) -> PlainBlock:
    _scale(block.attn.proj, block.gamma_1)
    _scale(block.mlp.fc2, block.gamma_2)
    return PlainBlock(block)


def check(network: nn.Module) -> str | None:
    """Every branch ends in a linear layer with a bias."""
    found = modules_of(network, BeitBlock)
    for path, block in found.items():
        for name, linear in (("attn.proj", block.attn.proj), ("mlp.fc2", block.mlp.fc2)):
            if reason := mismatch(f"{path}.{name}", linear, bias=True):
                return reason
    return None if found else "there is no block of a BEiT"


def apply(network: nn.Module, size: Size) -> Saving:
    """Fold both scales of every block."""
    blocks = replace_modules(network, BeitBlock, _rewrite)
    return Saving(blocks, nodes=2 * blocks)
