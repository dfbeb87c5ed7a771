"""Cross-attention over two tokens: closed form.

Per patch the sequence is (x1, x2) and both query results are summed before anything reads them. With
o_j = p_j v1 + (1 - p_j) v2 and a softmax over two keys being a sigmoid:

    p_j = sigmoid(s q_j . (k1 - k2)),   k1 - k2 = W_k (x1 - x2)              (the key bias cancels)
    W_o o1 + b_o + W_o o2 + b_o = W_o (P v1 + (2 - P) v2) + 2 b_o,   P = p1 + p2, per head

Six products of C x C per patch instead of eight, no [B*T, 2, C] reshape, no MultiheadAttention fast path. The scale
goes into W_q.
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.vit import patch_grid
from cdm_export.reference_model.cdm.network import TokenPairFusion
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class PairCore(nn.Module):
    """Everything between the projections; a module of its own so that its sums can stay FP32."""

    def forward(
        self, query_color: Tensor, query_depth: Tensor, key: Tensor, value_color: Tensor, value_depth: Tensor
    ) -> Tensor:
        """All [B, T, heads, d], queries scaled already, the key a difference -> [B, T, heads, d]."""
        to_color = (query_color * key).sum(dim=-1, keepdim=True).sigmoid()
        to_depth = (query_depth * key).sum(dim=-1, keepdim=True).sigmoid()
        share = to_color + to_depth
        return share * value_color + (2 - share) * value_depth


class ClosedFormPairFusion(nn.Module):
    """Sum of both results of attention over a pair of tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.core = PairCore()
        self.out = nn.Linear(width, width)

    def forward(self, color: Tensor, depth: Tensor) -> Tensor:
        """Two [B, T, C] -> [B, T, C]."""
        batch, count, width = color.shape
        by_head = (batch, count, self.heads, width // self.heads)
        mixed: Tensor = self.core(
            self.query(color).reshape(by_head),
            self.query(depth).reshape(by_head),
            self.key(color - depth).reshape(by_head),
            self.value(color).reshape(by_head),
            self.value(depth).reshape(by_head),
        )
        out: Tensor = self.out(mixed.reshape(batch, count, width))
        return out


@torch.no_grad()
def _rewrite(fusion: TokenPairFusion) -> ClosedFormPairFusion:
    width, heads = fusion.embed_dim, fusion.num_heads
    scale = (width // heads) ** -0.5
    weight_q, weight_k, weight_v = fusion.in_proj_weight.chunk(3)
    bias_q, _, bias_v = fusion.in_proj_bias.chunk(3)
    with torch.device("meta"):
        closed = ClosedFormPairFusion(width, heads)
    closed.load_state_dict(
        {
            "query.weight": weight_q.mul_(scale),
            "query.bias": bias_q.mul_(scale),
            "key.weight": weight_k,
            "value.weight": weight_v,
            "value.bias": bias_v,
            "out.weight": fusion.out_proj.weight,
            "out.bias": fusion.out_proj.bias.mul_(2),
        },
        assign=True,
    )
    return closed.requires_grad_(False)


def check(network: nn.Module) -> str | None:
    """Every fusion is plain attention with biases: no learned extra token, none of zeros."""
    found = modules_of(network, TokenPairFusion)
    for path, fusion in found.items():
        if fusion.in_proj_bias is None or fusion.bias_k is not None or fusion.add_zero_attn:
            return f"{path} attends to more than its two tokens, or has no bias"
    return None if found else "there is no fusion of two tokens"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every fusion."""
    rows, columns = patch_grid(size)
    macs = 0

    def rewrite(fusion: TokenPairFusion) -> ClosedFormPairFusion:
        nonlocal macs
        macs += rows * columns * (2 * fusion.embed_dim**2 + 8 * fusion.embed_dim)
        return _rewrite(fusion)

    modules = replace_modules(network, TokenPairFusion, rewrite)
    return Saving(modules, macs=macs, nodes=2 * modules)
