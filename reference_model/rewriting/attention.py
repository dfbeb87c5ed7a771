"""Self-attention whose core is a module of its own, always at the same path, so that its precision can be set apart."""

from typing import Protocol

from torch import Tensor, nn


class Attention(Protocol):
    """Multi-head attention with one projection of queries, keys and values."""

    heads: int
    qkv: nn.Linear
    proj: nn.Linear


class AttentionAround(nn.Module):
    """Multi-head attention: a network's own projections around the core it is given."""

    def __init__(self, core: nn.Module, attention: Attention, position: nn.Module | None = None) -> None:
        """``core``: query, key, value, [B, heads, N, d] each, and what ``position`` makes, if there is one
        -> [B, heads, N, d].
        """
        super().__init__()
        self.heads = attention.heads
        self.qkv = attention.qkv
        self.position = position
        self.core = core
        self.proj = attention.proj

    def forward(self, tokens: Tensor, *where: object) -> Tensor:
        """[B, N, C] -> [B, N, C]. ``where`` the tokens lie is known already."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        bias = () if self.position is None else (self.position(batch),)
        mixed: Tensor = self.core(query, key, value, *bias)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


class AttentionCore(nn.Module):
    """What backends fuse into one kernel."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Three [B, heads, N, d], the query scaled already, and what is added to the logits, [B or 1, heads, N, N]
        -> [B, heads, N, d].
        """
        logits = query @ key.transpose(-2, -1)
        return (logits if bias is None else logits + bias).softmax(dim=-1) @ value
