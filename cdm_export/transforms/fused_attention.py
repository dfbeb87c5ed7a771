"""Self-attention as one operator, for targets whose compiler has one (Core ML from macOS 15 and iOS 18).

    softmax((s q) k^T) v   ->   scaled_dot_product_attention(q, k, v)

The operator's own scale is s = d^-1/2, so that the projection stays as it is.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.transforms.attention import AttentionAround
from cdm_export.transforms.replace import replace_modules
from cdm_export.transforms.saving import Saving
from reference_model.vit import SelfAttention


class FusedCore(nn.Module):
    """The operator."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three [B, heads, N, d] -> [B, heads, N, d]."""
        return F.scaled_dot_product_attention(query, key, value)


def apply(network: nn.Module, rows: int, columns: int) -> Saving:
    """Rewrite every self-attention."""
    return Saving(replace_modules(network, SelfAttention, lambda attention: AttentionAround(FusedCore(), attention)))
