"""Self-attention whose core is a module of its own, always at the same path, so that its precision can be set apart."""

from torch import Tensor, nn

from cdm_export.reference_model.backbones.vit import SelfAttention


class AttentionAround(nn.Module):
    """Multi-head attention: a network's own projections around the core it is given."""

    def __init__(self, core: nn.Module, attention: SelfAttention) -> None:
        """``core``: query, key, value, [B, heads, N, d] each -> [B, heads, N, d]."""
        super().__init__()
        self.heads = attention.heads
        self.qkv = attention.qkv
        self.core = core
        self.proj = attention.proj

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed: Tensor = self.core(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out
