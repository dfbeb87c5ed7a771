"""Self-attention: the query's scale goes into the projection.

    softmax((s (x W_q + b_q)) k^T) v   ->   softmax((x (s W_q) + s b_q) k^T) v

Exact for head width 64 (s = 2^-3) even in floating point. The product stays explicit, ``q @ k^T -> softmax -> @ v``:
TensorRT 10.7 miscompiles the exported scaled_dot_product_attention (NVIDIA/TensorRT#4333); keep this form until
10.3 to 10.7 are no longer supported.
"""

import torch
from torch import nn

from cdm_export.reference_model.backbones.vit import SelfAttention
from cdm_export.reference_model.rewriting.attention import AttentionAround, AttentionCore
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


@torch.no_grad()
def _rewrite(attention: SelfAttention) -> AttentionAround:
    width = attention.proj.in_features
    attention.qkv.weight[:width] *= attention.scale
    attention.qkv.bias[:width] *= attention.scale
    return AttentionAround(AttentionCore(), attention)


def check(network: nn.Module) -> str | None:
    """Every projection of queries, keys and values has a bias, which is scaled too."""
    found = modules_of(network, SelfAttention)
    for path, attention in found.items():
        if reason := mismatch(f"{path}.qkv", attention.qkv, bias=True):
            return reason
    return None if found else "there is no self-attention of a vision transformer"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every self-attention."""
    modules = replace_modules(network, SelfAttention, _rewrite)
    return Saving(modules, nodes=-2 * modules)  # the query's Mul goes, three Gather become Slice and Squeeze
