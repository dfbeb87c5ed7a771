"""SwinV2 encoder as MiDaS v3.1 runs it: cosine attention in shifted windows, norms after the branches.

Source: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution" (arXiv 2111.09883), in the form of timm
0.6.12 that the published weights were trained with. Order of operations and state-dict names are the originals'. The
files also carry ``attn_mask``, which follows from grid, window and shift. For grids that windows do not tile, windows
and shifts follow Muggled DPT's rule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.midas.config import Swin2Config, window_side

PATCH = 4
"""Pixels per patch side of the first stage; every further stage halves the grid."""
STAGES = 4
_BIAS_LIMIT = 16.0
"""The position bias lies between 0 and this."""
_MOST_SHARP = math.log(100)
"""Upper bound of the logarithm of the logits' scale."""
_OUTSIDE = -100.0
"""Added to the logit of a pair that wrapped around the image."""


@dataclass(frozen=True)
class Windows:
    """How one block's attention cuts a grid into windows."""

    grid: tuple[int, int]
    """Rows and columns of patches."""
    size: tuple[int, int]
    """Of a window."""
    shift: tuple[int, int]
    """Rows and columns by which the image is rolled before it is cut."""

    @property
    def count(self) -> int:
        """Windows per image."""
        return (self.grid[0] // self.size[0]) * (self.grid[1] // self.size[1])

    @property
    def area(self) -> int:
        """Patches per window."""
        return self.size[0] * self.size[1]

    @property
    def shifted(self) -> bool:
        """Whether the image is rolled at all."""
        return self.shift != (0, 0)


def windows_of(grid: tuple[int, int], window: int, shifted: bool) -> Windows:
    """Windows of a block; every second block of a stage is ``shifted``, along axes that hold more than one window."""
    rows, columns = (window_side(length, window) for length in grid)
    shift = (
        rows // 2 if shifted and grid[0] > rows else 0,
        columns // 2 if shifted and grid[1] > columns else 0,
    )
    return Windows(grid, (rows, columns), shift)


def shift_mask(windows: Windows) -> Tensor:
    """[windows, area, area]: 0 for pairs of patches that are neighbors in the image, -100 for those that only the roll
    brought into one window.
    """

    def regions(grid: int, side: int, shift: int) -> Tensor:
        place = torch.arange(grid)
        return (place >= grid - side).long() + (place >= grid - shift).long() if shift else torch.zeros_like(place)

    rows, columns = (regions(*axis) for axis in zip(windows.grid, windows.size, windows.shift, strict=True))
    labels = (3 * rows[:, None] + columns).float()[None, :, :, None]
    cut = partition(labels, windows).squeeze(-1)
    return (cut[:, None, :] != cut[:, :, None]).float() * _OUTSIDE


def partition(image: Tensor, windows: Windows) -> Tensor:
    """[B, H, W, C] -> [B * windows, area, C], image by image, row by row of windows."""
    batch, height, width, channels = image.shape
    rows, columns = windows.size
    tiles = image.reshape(batch * height // rows, rows, width // columns, columns * channels)
    return tiles.transpose(1, 2).reshape(batch * windows.count, rows * columns, channels)


def join(cut: Tensor, windows: Windows) -> Tensor:
    """The inverse: [B * windows, area, C] -> [B, H, W, C]."""
    height, width = windows.grid
    rows, columns = windows.size
    batch, channels = cut.shape[0] // windows.count, cut.shape[2]
    tiles = cut.reshape(batch * height // rows, width // columns, rows, columns * channels)
    return tiles.transpose(1, 2).reshape(batch, height, width, channels)


def log_coordinates(windows: Windows, trained: int) -> Tensor:
    """[(2 rows - 1)(2 columns - 1), 2]: offsets between the patches of a window, as shares of the window the network
    was trained on (``trained`` patches), times 8, on a logarithmic scale.
    """
    axes = [torch.arange(1 - side, side, dtype=torch.float32) for side in windows.size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) / (trained - 1) * 8
    return (torch.sign(offsets) * torch.log2(offsets.abs() + 1.0) / math.log2(8)).reshape(-1, 2)


def pair_index(windows: Windows) -> Tensor:
    """[area, area] int64: row of ``log_coordinates`` for every pair (query, key)."""
    rows, columns = windows.size
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")).flatten(1)
    distance = places[:, :, None] - places[:, None, :]
    return (distance[0] + rows - 1) * (2 * columns - 1) + distance[1] + columns - 1


class WindowAttention(nn.Module):
    """Cosine attention inside windows, with a bias that a small network makes of the offset between two patches."""

    def __init__(self, width: int, heads: int, trained: int) -> None:
        super().__init__()
        self.heads = heads
        self.trained = trained
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, windows: Windows) -> Tensor:
        """[B * windows, area, C] -> the same."""
        batch, count, width = tokens.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(tokens, self.qkv.weight, bias).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        logits = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        logits = logits * self.logit_scale.clamp(max=_MOST_SHARP).exp()
        table = self.cpb_mlp(log_coordinates(windows, self.trained).to(tokens))
        position = table[pair_index(windows).flatten().to(tokens.device)].reshape(count, count, -1).permute(2, 0, 1)
        logits = logits + (_BIAS_LIMIT * position.sigmoid())[None]
        if windows.shifted:
            mask = shift_mask(windows).to(tokens)[None, :, None]
            logits = logits.reshape(-1, windows.count, self.heads, count, count) + mask
            logits = logits.reshape(batch, self.heads, count, count)
        mixed = (logits.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, count, width)
        out: Tensor = self.proj(mixed)
        return out


class WindowMlp(nn.Module):
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


class WindowBlock(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, width: int, heads: int, window: int, trained: int, shifted: bool) -> None:
        super().__init__()
        self.window = window
        self.shifted = shifted
        self.attn = WindowAttention(width, heads, trained)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = WindowMlp(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """[B, H, W, C] -> the same."""
        windows = windows_of((image.shape[1], image.shape[2]), self.window, self.shifted)
        rolled = image
        if windows.shifted:
            rolled = torch.roll(image, shifts=(-windows.shift[0], -windows.shift[1]), dims=(1, 2))
        mixed = join(self.attn(partition(rolled, windows), windows), windows)
        if windows.shifted:
            mixed = torch.roll(mixed, shifts=windows.shift, dims=(1, 2))
        image = image + self.norm1(mixed)
        out: Tensor = image + self.norm2(self.mlp(image))
        return out


class PatchMerging(nn.Module):
    """Four neighbors into one, with twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, image: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H/2, W/2, 2 C]; the order of the four is down first, then right."""
        neighbors = (image[:, 0::2, 0::2], image[:, 1::2, 0::2], image[:, 0::2, 1::2], image[:, 1::2, 1::2])
        out: Tensor = self.norm(self.reduction(torch.cat(neighbors, dim=-1)))
        return out


class Stage(nn.Module):
    """Blocks on one grid; what follows halves it."""

    def __init__(self, config: Swin2Config, index: int) -> None:
        super().__init__()
        width, heads, trained = config.levels[index], config.heads[index], config.coordinates[index]
        self.blocks = nn.ModuleList(
            WindowBlock(width, heads, config.window, trained, shifted=bool(block % 2))
            for block in range(config.depths[index])
        )
        self.downsample: nn.Module = PatchMerging(width) if index < STAGES - 1 else nn.Identity()


class Swin2PatchEmbed(nn.Module):
    """[B, 3, H, W] -> [B, H/4, W/4, C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """Project non-overlapping patches, then norm."""
        out: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return out


class Swin2(nn.Module):
    """Encoder that returns what the last block of every stage hands on."""

    def __init__(self, config: Swin2Config) -> None:
        super().__init__()
        self.patch_embed = Swin2PatchEmbed(config.width)
        self.layers = nn.ModuleList(Stage(config, index) for index in range(STAGES))
        self.norm = nn.LayerNorm(config.levels[-1])  # of the classifier; kept for the state dict
        self.head = nn.Linear(config.levels[-1], 1000)  # likewise

    def forward(self, image: Tensor) -> Sequence[Tensor]:
        """[B, 3, H, W], sides multiples of 32 -> four [B, C, H/4, W/4] to [B, 8 C, H/32, W/32]."""
        grid = self.patch_embed(image)
        levels = []
        for stage in self.layers:
            assert isinstance(stage, Stage)
            for block in stage.blocks:
                grid = block(grid)
            levels.append(grid.permute(0, 3, 1, 2))
            grid = stage.downsample(grid)
        return levels
