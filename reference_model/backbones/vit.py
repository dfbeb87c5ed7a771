"""DINOv2 vision transformer, as published, for every family that is built on it.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (arXiv 2304.07193) and its
configuration in Depth Anything V2 and CDM: patch 14, LayerScale, no register tokens, position embedding trained on
37x37 patches and interpolated per call. Order of operations and state-dict names are the original's; rewrites for
export live in ``cdm_export/transforms`` and replace submodules, never this forward.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.config import PATCH, VitConfig
from cdm_export.runtimes.contract import Size

TRAINED_GRID = 37
"""Patches per side the position embedding was trained on (518 / 14)."""
_GRID_OFFSET = 0.1
"""Added to the target grid before the scale is formed. The scale, not the size, enters the bicubic coordinates, so
dropping the offset moves the embedding by up to a tenth of a token (3 % relative error on a smooth embedding)."""
LAYER_NORM_EPS = 1e-6


def patch_grid(size: Size) -> tuple[int, int]:
    """(rows, columns) of patches in an image of ``size`` pixels."""
    return size.height // PATCH, size.width // PATCH


class PatchEmbed(nn.Module):
    """[B, in, H, W] -> [B, T, C] tokens, T = (H/14)(W/14), row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """Project non-overlapping patches."""
        tokens: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return tokens


class InterpolatedPosition(nn.Module):
    """Position embedding for the grid at hand, interpolated in every call, as the original does."""

    def forward(self, embedding: Tensor, rows: int, columns: int) -> Tensor:
        """[1, 1 + 37*37, C] -> [1, 1 + rows*columns, C]; returned as is for the trained square grid."""
        if rows == columns == TRAINED_GRID:
            return embedding
        width = embedding.shape[-1]
        cls, grid = embedding[:, :1], embedding[:, 1:].float()
        grid = grid.reshape(1, TRAINED_GRID, TRAINED_GRID, width).permute(0, 3, 1, 2)
        scale = ((rows + _GRID_OFFSET) / TRAINED_GRID, (columns + _GRID_OFFSET) / TRAINED_GRID)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False, antialias=False)
        if grid.shape[-2:] != (rows, columns):
            raise RuntimeError(f"position embedding came out as {tuple(grid.shape[-2:])}, expected {(rows, columns)}")
        grid = grid.permute(0, 2, 3, 1).reshape(1, rows * columns, width)
        return torch.cat((cls, grid.to(embedding.dtype)), dim=1)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one qkv projection; the query is scaled before the product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * self.scale, qkv[1], qkv[2]
        weights = (query @ key.transpose(-2, -1)).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, count, width)
        out: Tensor = self.proj(mixed)
        return out


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


class SwiGlu(nn.Module):
    """silu(x1) * x2 with both halves from one projection; hidden width is 2/3 of 4C rounded up to 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class LayerScale(nn.Module):
    """Learned scale per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return tokens * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale on both branches."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = SelfAttention(width, config.heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = SwiGlu(width) if config.ffn == "swiglu" else Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        out: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return out


class DinoV2(nn.Module):
    """Encoder returning the normalized patch tokens of the hooked blocks."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbed(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # training only; kept for the state dict
        self.position = InterpolatedPosition()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, image: Tensor) -> Sequence[Tensor]:
        """[B, 3, H, W], sides multiples of 14 -> one [B, T, C] per hook; the class token is dropped."""
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        tokens = self.patch_embed(image)
        tokens = torch.cat((self.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        tokens = tokens + self.position(self.pos_embed, rows, columns)
        outputs = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in self.config.hooks:
                outputs.append(self.norm(tokens)[:, 1:])
        return outputs
