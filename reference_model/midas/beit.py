"""BEiT encoder as MiDaS v3.1 runs it: pre-norm blocks, relative position bias per layer, no absolute positions.

Source: Bao et al., "BEiT: BERT Pre-Training of Image Transformers" (arXiv 2106.08254); Birkl et al., "MiDaS v3.1"
(arXiv 2307.14460), whose encoder interpolates the bias tables to the grid at hand. Order of operations and state-dict
names are the originals'. The files also carry ``relative_position_index``, which follows from the grid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.vit import Mlp
from cdm_export.reference_model.midas.config import BeitConfig

PATCH = 16
"""Pixels per patch side."""
CLS_ROWS = 3
"""Last rows of a bias table: class token to patch, patch to class token, class token to itself."""
LAYER_NORM_EPS = 1e-6


def relative_position_index(rows: int, columns: int) -> Tensor:
    """[1 + rows*columns, 1 + rows*columns] int64: row of the bias table for every pair (query, key), the class token
    first. Row ``(dy + rows - 1) * (2 columns - 1) + dx + columns - 1`` is for a query ``dy`` rows below and ``dx``
    columns right of its key.
    """
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")).flatten(1)
    distance = places[:, :, None] - places[:, None, :]
    pairs = (distance[0] + rows - 1) * (2 * columns - 1) + distance[1] + columns - 1
    offsets = (2 * rows - 1) * (2 * columns - 1)
    index = torch.empty(1 + rows * columns, 1 + rows * columns, dtype=torch.int64)
    index[1:, 1:] = pairs
    index[0, :] = offsets
    index[:, 0] = offsets + 1
    index[0, 0] = offsets + 2
    return index


def resized_table(table: Tensor, grid: int, rows: int, columns: int) -> Tensor:
    """[(2 grid - 1)^2 + 3, heads] -> [(2 rows - 1)(2 columns - 1) + 3, heads], bilinear; the last three rows stay."""
    side = 2 * grid - 1
    image = table[:-CLS_ROWS].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(2 * rows - 1, 2 * columns - 1), mode="bilinear")
    offsets = resized.permute(0, 2, 3, 1).reshape((2 * rows - 1) * (2 * columns - 1), -1)
    return torch.cat((offsets, table[-CLS_ROWS:]))


class BeitAttention(nn.Module):
    """Multi-head self-attention with a bias for every offset between two patches; keys have no bias of their own."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.grid = config.grid
        self.scale = (width // config.heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        offsets = (2 * config.grid - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets + CLS_ROWS, config.heads))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """[B, 1 + rows*columns, C] -> the same."""
        batch, count, width = tokens.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(tokens, self.qkv.weight, bias)
        qkv = qkv.reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * self.scale, qkv[1], qkv[2]
        table = resized_table(self.relative_position_bias_table, self.grid, rows, columns)
        index = relative_position_index(rows, columns).to(table.device)
        position = table[index.flatten()].reshape(count, count, self.heads).permute(2, 0, 1)
        weights = (query @ key.transpose(-2, -1) + position[None]).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, count, width)
        out: Tensor = self.proj(mixed)
        return out


class BeitBlock(nn.Module):
    """Pre-norm transformer block, every branch scaled per channel."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        width = config.width
        self.gamma_1 = nn.Parameter(torch.ones(width))
        self.gamma_2 = nn.Parameter(torch.ones(width))
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = BeitAttention(config)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """[B, 1 + rows*columns, C] -> the same."""
        tokens = tokens + self.gamma_1 * self.attn(self.norm1(tokens), rows, columns)
        out: Tensor = tokens + self.gamma_2 * self.mlp(self.norm2(tokens))
        return out


class BeitPatchEmbed(nn.Module):
    """[B, 3, H, W] -> [B, T, C] tokens, T = (H/16)(W/16), row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """Project non-overlapping patches."""
        tokens: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return tokens


class Beit(nn.Module):
    """Encoder that returns the hooked blocks' outputs as they are, class token included."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        width = config.width
        self.hooks = config.hooks
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = BeitPatchEmbed(width)
        self.blocks = nn.ModuleList(BeitBlock(config) for _ in range(config.depth))
        self.fc_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)  # of the classifier; kept for the state dict
        self.head = nn.Linear(width, 1000)  # likewise

    def forward(self, image: Tensor) -> Sequence[Tensor]:
        """[B, 3, H, W], sides multiples of 16 -> four [B, 1 + T, C]."""
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        tokens = self.patch_embed(image)
        tokens = torch.cat((self.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        levels = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, rows, columns)
            if index in self.hooks:
                levels.append(tokens)
        return levels
