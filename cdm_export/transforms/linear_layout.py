"""Linear layers hold their weight as the graph's MatMul reads it.

    x W^T + b   ->   x V + b,   V = W^T stored contiguously

The exporter would otherwise fold every transpose while the module still holds the original: both copies of 2.4 GB at
once for the large model. Layer by layer, only one extra weight exists at a time.
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class MatMulLinear(nn.Module):
    """[..., in] -> [..., out] with the weight stored [in, out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.t().contiguous(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """Product, then bias."""
        product = tokens @ self.weight
        return product if self.bias is None else product + self.bias


@torch.no_grad()
def _rewrite(linear: nn.Linear) -> MatMulLinear:
    rewritten = MatMulLinear(linear)
    linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)  # frees the original at once
    return rewritten


def check(network: nn.Module) -> str | None:
    """Any linear layer will do."""
    return None if modules_of(network, nn.Linear) else "there is no linear layer"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every linear layer; last of the rules, because the others read ``nn.Linear`` weights."""
    return Saving(replace_modules(network, nn.Linear, _rewrite))
