"""Self-attention as one operator, for targets whose compiler has one (Core ML from macOS 15 and iOS 18).

    softmax((s q) k^T) v   ->   scaled_dot_product_attention(q, k, v)

The operator's own scale is s = d^-1/2, so that the projection stays as it is.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.vit import SelfAttention
from cdm_export.reference_model.rewriting.attention import AttentionAround
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class FusedCore(nn.Module):
    """The operator."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three [B, heads, N, d] -> [B, heads, N, d]."""
        return F.scaled_dot_product_attention(query, key, value)


def check(network: nn.Module) -> str | None:
    """Every attention has the operator's own scale."""
    found = modules_of(network, SelfAttention)
    for path, attention in found.items():
        if reason := mismatch(path, attention, scale=(attention.proj.in_features // attention.heads) ** -0.5):
            return reason
    return None if found else "there is no self-attention of a vision transformer"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every self-attention."""
    return Saving(replace_modules(network, SelfAttention, lambda attention: AttentionAround(FusedCore(), attention)))
