"""Self-attention: the query's scale goes into the projection.

    softmax((s (x W_q + b_q)) k^T) v   ->   softmax((x (s W_q) + s b_q) k^T) v

Exact for head width 64 (s = 2^-3) even in floating point. The product stays explicit, ``q @ k^T -> softmax -> @ v``:
TensorRT 10.7 miscompiles the exported scaled_dot_product_attention (NVIDIA/TensorRT#4333); keep this form until
10.3 to 10.7 are no longer supported.
"""

import torch
from torch import Tensor, nn

from cdm_export.transforms.replace import replace_modules
from reference_model.vit import SelfAttention


class AttentionCore(nn.Module):
    """What backends fuse into one kernel; a module of its own so that its precision can be set apart."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three [B, heads, N, d], the query scaled already -> [B, heads, N, d]."""
        return (query @ key.transpose(-2, -1)).softmax(dim=-1) @ value


class ExplicitAttention(nn.Module):
    """Multi-head attention whose projection already holds the scale."""

    def __init__(self, heads: int, qkv: nn.Linear, proj: nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = qkv
        self.core = AttentionCore()
        self.proj = proj

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed: Tensor = self.core(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


@torch.no_grad()
def _rewrite(attention: SelfAttention) -> ExplicitAttention:
    width = attention.proj.in_features
    attention.qkv.weight[:width] *= attention.scale
    attention.qkv.bias[:width] *= attention.scale
    return ExplicitAttention(attention.heads, attention.qkv, attention.proj)


def apply(network: nn.Module, rows: int, columns: int) -> int:
    """Rewrite every self-attention."""
    return replace_modules(network, SelfAttention, _rewrite)
