"""Self-attention as one operator, for targets whose compiler has one (Core ML from macOS 15 and iOS 18).

    softmax((s q) k^T) v   ->   scaled_dot_product_attention(q, k, v)

The operator's own scale is s = d^-1/2, so that the projection stays as it is.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.transforms.replace import replace_modules
from cdm_export.transforms.saving import Saving
from reference_model.vit import SelfAttention


class FusedCore(nn.Module):
    """The operator; a module of its own, at the same path as ``explicit_attention``'s, so that one plan types both."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three [B, heads, N, d] -> [B, heads, N, d]."""
        return F.scaled_dot_product_attention(query, key, value)


class FusedAttention(nn.Module):
    """Multi-head attention around the operator."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.qkv = attention.qkv
        self.core = FusedCore()
        self.proj = attention.proj

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed: Tensor = self.core(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


def apply(network: nn.Module, rows: int, columns: int) -> Saving:
    """Rewrite every self-attention."""
    return Saving(replace_modules(network, SelfAttention, FusedAttention))
