"""SwinV2's attention for one grid: what depends on weights and grid alone is computed once.

    softmax(e^s (q / |q|) (k / |k|)^T + 16 sigmoid(m(c)[i]) + mask) v

The position network m runs over the table of offsets c once; the graph keeps its result, one number per offset and
head, from which runtimes gather the bias of every pair when they load. The scale e^s goes onto the normalized queries:
d numbers per token instead of one per pair. Blocks without a shift have no mask.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.midas.rewrites.relative_attention import TableBias, projection
from cdm_export.reference_model.midas.swin2 import (
    PATCH,
    Stage,
    Swin2,
    WindowAttention,
    WindowBlock,
    Windows,
    log_coordinates,
    pair_index,
    shift_mask,
    windows_of,
)
from cdm_export.reference_model.rewriting.attention import AttentionAround, AttentionCore
from cdm_export.reference_model.rewriting.replace import modules_of
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class Normalization(nn.Module):
    """Tokens of length 1."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return F.normalize(tokens, dim=-1)


class MaskedBias(nn.Module):
    """A bias for every pair, and what keeps pairs apart that the roll brought into one window."""

    def __init__(self, bias: TableBias, mask: Tensor) -> None:
        """``mask`` [windows, N, N]: 0 or -100."""
        super().__init__()
        self.bias = bias
        self.mask = nn.Parameter(mask[:, None], requires_grad=False)  # of the weights' type, whichever that becomes

    def forward(self, batch: int) -> Tensor:
        """[batch, heads, N, N] for ``batch`` windows of one image or several."""
        bias = self.bias(batch)
        both: Tensor = bias + self.mask
        images = batch // self.mask.shape[0]
        return both if images == 1 else both.repeat(images, 1, 1, 1)


class CosineCore(nn.Module):
    """Attention by direction."""

    def __init__(self, scale: Tensor) -> None:
        """``scale`` [1, heads, 1, 1] of the logits."""
        super().__init__()
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.normalize_query = Normalization()
        self.normalize_key = Normalization()
        self.mix = AttentionCore()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Three [windows, heads, N, d] and a bias that fits the logits -> [windows, heads, N, d]."""
        out: Tensor = self.mix(self.normalize_query(query) * self.scale, self.normalize_key(key), value, bias)
        return out


def _attentions(network: nn.Module, size: Size) -> Iterator[tuple[WindowBlock, Windows]]:
    """Every block of every encoder, with its windows."""
    for encoder in network.modules():
        if isinstance(encoder, Swin2):
            for stage, layer in enumerate(encoder.layers):
                grid = (size.height // PATCH >> stage, size.width // PATCH >> stage)
                assert isinstance(layer, Stage)
                for block in layer.blocks:
                    assert isinstance(block, WindowBlock)
                    yield block, windows_of(grid, block.window, block.shifted)


def check(network: nn.Module) -> str | None:
    """Any attention of a SwinV2 will do."""
    return None if modules_of(network, WindowAttention) else "there is no attention of a SwinV2"


@torch.no_grad()
def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every attention; those with equal windows share an index."""
    indices: dict[tuple[int, int], Tensor] = {}
    masks: dict[Windows, Tensor] = {}
    found = macs = 0
    for block, windows in _attentions(network, size):
        attention = block.attn
        assert isinstance(attention, WindowAttention)
        coordinates = log_coordinates(windows, attention.trained).to(attention.q_bias)
        macs += coordinates.shape[0] * 512 * (2 + attention.heads)
        table = 16 * attention.cpb_mlp(coordinates).sigmoid()
        index = indices.setdefault(windows.size, pair_index(windows))
        position: nn.Module = TableBias(table.t().contiguous(), index)
        if windows.shifted:
            mask = masks.setdefault(windows, shift_mask(windows).to(coordinates))
            position = MaskedBias(position, mask)  # type: ignore[arg-type]
        scale = attention.logit_scale.clamp(max=math.log(100)).exp()[None]
        attention.qkv = projection(attention, 1.0)
        block.attn = AttentionAround(CosineCore(scale), attention, position)  # type: ignore[assignment]
        found += 1
    return Saving(found, macs=macs)
