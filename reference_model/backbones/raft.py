"""Parts of recurrent stereo networks that several families share: encoder blocks, correlation of rows, upsampling.

Sources: Lipson et al., "RAFT-Stereo" (arXiv 2109.07547); Teed and Deng, "RAFT" (arXiv 2003.12039). Order of operations
and state-dict names are the originals'.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "instance"]


def norm_of(kind: Norm, channels: int) -> nn.Module:
    """A norm of feature maps; instance norms have no parameters."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.InstanceNorm2d(channels)


class ResidualBlock(nn.Module):
    """relu(x' + relu(norm(conv(relu(norm(conv x)))))), where x' is x, or a 1x1 convolution of it."""

    def __init__(self, inside: int, outside: int, norm: Norm, stride: int = 1, *, always_project: bool = False) -> None:
        """``always_project``: the 1x1 convolution is there even where shapes match."""
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.norm1 = norm_of(norm, outside)
        self.norm2 = norm_of(norm, outside)
        self.downsample: nn.Module | None = None
        if always_project or stride != 1 or inside != outside:
            self.norm3 = norm_of(norm, outside)
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride), self.norm3)

    def forward(self, image: Tensor) -> Tensor:
        """[B, in, h, w] -> [B, out, h/stride, w/stride]."""
        y = F.relu(self.norm1(self.conv1(image)))
        y = F.relu(self.norm2(self.conv2(y)))
        if self.downsample is not None:
            image = self.downsample(image)
        return F.relu(image + y)


def pair_of_blocks(
    inside: int, outside: int, norm: Norm, stride: int, *, always_project: bool = False
) -> nn.Sequential:
    """Two residual blocks, the first with the stride."""
    return nn.Sequential(
        ResidualBlock(inside, outside, norm, stride, always_project=always_project),
        ResidualBlock(outside, outside, norm, always_project=always_project),
    )


class Trunk(nn.Module):
    """Convolutions from the image to the finest GRU's grid."""

    def __init__(self, norm: Norm, downsample: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 1 + (downsample > 2), padding=3)
        self.norm1 = norm_of(norm, 64)
        self.layer1 = pair_of_blocks(64, 64, norm, 1)
        self.layer2 = pair_of_blocks(64, 96, norm, 1 + (downsample > 1))
        self.layer3 = pair_of_blocks(96, 128, norm, 1 + (downsample > 0))

    def features(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 128, h, w]."""
        out: Tensor = self.layer3(self.layer2(self.layer1(F.relu(self.norm1(self.conv1(image))))))
        return out


class AllPairs(nn.Module):
    """Correlation of every pixel with all pixels of the other image's row, and ever coarser along that row."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, left: Tensor, right: Tensor) -> list[Tensor]:
        """Two [B, C, h, w] -> per level [B*h*w, w / 2^level], dot products / sqrt(C)."""
        volume: Tensor = left.permute(0, 2, 3, 1) @ right.permute(0, 2, 1, 3) / left.shape[1] ** 0.5
        rows = volume.flatten(0, 2)
        pyramid = [rows]
        for _ in range(self.levels - 1):
            rows = F.avg_pool1d(rows[:, None], 2)[:, 0]
            pyramid.append(rows)
        return pyramid


def window(place: Tensor, level: int, radius: int) -> Tensor:
    """Columns that are looked at: [B, 1, h, w] -> [B*h*w, 2 radius + 1], pixels of the level."""
    offsets = torch.arange(-radius, radius + 1, dtype=place.dtype, device=place.device)
    columns: Tensor = place.flatten()[:, None] / 2**level + offsets
    return columns


def as_planes(samples: Sequence[Tensor], place: Tensor) -> Tensor:
    """Per level [B*h*w, n] -> [B, levels * n, h, w]."""
    batch, _, height, width = place.shape
    return torch.cat(list(samples), dim=1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


class SampledLookup(nn.Module):
    """Correlations around a place, as upstream reads them: by image sampling, 0 outside of the row."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, pyramid: Sequence[Tensor], place: Tensor) -> Tensor:
        """Rows per level, and columns [B, 1, h, w] -> [B, levels * (2 radius + 1), h, w]."""
        samples = []
        for level, rows in enumerate(pyramid):
            across = 2 * window(place, level, self.radius) / (rows.shape[1] - 1) - 1
            grid = torch.stack((across, torch.zeros_like(across)), dim=-1)[:, None]
            samples.append(F.grid_sample(rows[:, None, None], grid, align_corners=True)[:, 0, 0])
        return as_planes(samples, place)


class ClampedLookup(nn.Module):
    """Correlations around a place, as nndepth reads them: outside of the row is its nearest end."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, pyramid: Sequence[Tensor], place: Tensor) -> Tensor:
        """Rows per level, and columns [B, 1, h, w] -> [B, levels * (2 radius + 1), h, w]."""
        samples = []
        for level, rows in enumerate(pyramid):
            last = rows.shape[1] - 1
            share = (window(place, level, self.radius) / last).clamp(0, 1) * last
            before, after = share.floor(), share.ceil()
            weight = after - share
            low, high = rows.gather(1, before.long()), rows.gather(1, after.long())
            samples.append(weight * low + (1 - weight) * high)
        return as_planes(samples, place)


class ConvexUpsample(nn.Module):
    """Every fine pixel is a weighted mean of the coarse pixel that it lies in and its eight neighbors."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, flow: Tensor, weights: Tensor) -> Tensor:
        """Flow [B, D, h, w] in coarse pixels and logits [B, 9 factor^2, h, w] -> [B, D, factor h, factor w]."""
        batch, planes, height, width = flow.shape
        factor = self.factor
        shares = weights.reshape(batch, 1, 9, factor, factor, height, width).softmax(dim=2)
        around = F.unfold(factor * flow, (3, 3), padding=1).reshape(batch, planes, 9, 1, 1, height, width)
        fine = (shares * around).sum(dim=2).permute(0, 1, 4, 2, 5, 3)
        return fine.reshape(batch, planes, factor * height, factor * width)


class ConvGru(nn.Module):
    """Convolutional GRU whose context is added to the gates, computed once."""

    def __init__(self, hidden: int, inside: int) -> None:
        super().__init__()
        self.convz = nn.Conv2d(hidden + inside, hidden, 3, padding=1)
        self.convr = nn.Conv2d(hidden + inside, hidden, 3, padding=1)
        self.convq = nn.Conv2d(hidden + inside, hidden, 3, padding=1)

    def forward(self, state: Tensor, context: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """State [B, hidden, h, w], three contexts of the same shape, inputs [B, ..., h, w] -> the next state."""
        for_z, for_r, for_q = context
        x = torch.cat(inputs, dim=1)
        both = torch.cat((state, x), dim=1)
        z = torch.sigmoid(self.convz(both) + for_z)
        r = torch.sigmoid(self.convr(both) + for_r)
        q = torch.tanh(self.convq(torch.cat((r * state, x), dim=1)) + for_q)
        return (1 - z) * state + z * q


class FlowHead(nn.Module):
    """The step of an iteration."""

    def __init__(self, inside: int, hidden: int, planes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, planes, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, planes, h, w], coarse pixels."""
        out: Tensor = self.conv2(F.relu(self.conv1(state)))
        return out


def columns_of(features: Tensor) -> Tensor:
    """Every pixel's own column: [B, C, h, w] -> [B, 1, h, w]."""
    batch, _, height, width = features.shape
    columns = torch.arange(width, dtype=torch.float32, device=features.device)
    # As wide as the network in float64, float32 whatever precision it has otherwise: half has no subpixels at 2048.
    columns = columns.to(torch.float64) if features.dtype == torch.float64 else columns
    return columns.expand(batch, 1, height, width)
