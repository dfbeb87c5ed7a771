"""DPT decoder, as Depth Anything and CDM use it: four token levels -> one full-resolution map.

Source: Ranftl et al., "Vision Transformers for Dense Prediction" (arXiv 2103.13413). Order of operations and
state-dict names are the original's: the 1x1 convolution of a fusion block comes after its upsampling.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.config import PATCH, DptConfig
from cdm_export.runtimes.contract import Size

Grid = tuple[int, int]
"""Rows and columns."""


@runtime_checkable
class DptDecoder(Protocol):
    """What rewrites ask of a module that holds such a decoder."""

    scratch: nn.Module
    """``layer1_rn`` to ``layer4_rn`` read the levels, ``refinenet1`` to ``refinenet4`` fuse them, finest first."""

    def level_grids(self, size: Size) -> tuple[Grid, Grid, Grid, Grid]:
        """Grids of the four levels, finest first, for an image of ``size`` pixels."""

    def resize_slot(self, level: int) -> tuple[nn.Module, str] | None:
        """Where the layer is that brings a level (0 the finest) to its grid, from that of level 2: its parent and its
        name. None when there is none.
        """


def upsample(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners, the only interpolation of this decoder. [B, C, h, w] -> [B, C, *size]."""
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """[B, F, h, w] -> [B, F, h, w]."""
        out: Tensor = self.conv2(F.relu(self.conv1(F.relu(image)))) + image
        return out


class FeatureFusion(nn.Module):
    """Add the finer level to the coarser path, refine, upsample, 1x1."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, path: Tensor, level: Tensor | None, size: Sequence[int]) -> Tensor:
        """Path [B, F, h, w] and, except for the coarsest, level [B, F, h, w] -> [B, F, *size]."""
        if level is not None:
            path = path + self.resConfUnit1(level)
        out: Tensor = self.out_conv(upsample(self.resConfUnit2(path), size))
        return out


class Scratch(nn.Module):
    """Everything after reassembly; the name is the original's, kept for the state dict."""

    def __init__(self, config: DptConfig) -> None:
        super().__init__()
        features = config.features
        c0, c1, c2, c3 = config.out_channels
        self.layer1_rn = nn.Conv2d(c0, features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(c1, features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(c2, features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(c3, features, 3, padding=1, bias=False)
        self.refinenet1 = FeatureFusion(features)
        self.refinenet2 = FeatureFusion(features)
        self.refinenet3 = FeatureFusion(features)
        self.refinenet4 = FeatureFusion(features)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        last = (nn.Sigmoid(),) if config.last == "sigmoid" else (nn.ReLU(), nn.Identity())
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1), *last
        )


class DptHead(nn.Module):
    """Reassemble four token levels into images and decode them to [B, 1, 14*rows, 14*columns], >= 0."""

    def __init__(self, in_channels: int, config: DptConfig) -> None:
        super().__init__()
        c0, c1, _, c3 = config.out_channels
        self.projects = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for channels in config.out_channels)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(c0, c0, 4, stride=4),
                nn.ConvTranspose2d(c1, c1, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c3, c3, 3, stride=2, padding=1),
            )
        )
        self.scratch = Scratch(config)

    def level_grids(self, size: Size) -> tuple[Grid, Grid, Grid, Grid]:
        """See ``DptDecoder``."""
        rows, columns = size.height // PATCH, size.width // PATCH
        return (4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns), (-(-rows // 2), -(-columns // 2))

    def resize_slot(self, level: int) -> tuple[nn.Module, str]:
        """See ``DptDecoder``."""
        return self.resize_layers, str(level)

    def forward(self, levels: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        """Four [B, T, in_channels] with T = rows*columns, finest hook first."""
        images = []
        for tokens, project, resize in zip(levels, self.projects, self.resize_layers, strict=True):
            image = tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], rows, columns)
            images.append(resize(project(image)))
        scratch = self.scratch
        level1, level2 = scratch.layer1_rn(images[0]), scratch.layer2_rn(images[1])
        level3, level4 = scratch.layer3_rn(images[2]), scratch.layer4_rn(images[3])
        path = scratch.refinenet4(level4, None, level3.shape[-2:])
        path = scratch.refinenet3(path, level3, level2.shape[-2:])
        path = scratch.refinenet2(path, level2, level1.shape[-2:])
        path = scratch.refinenet1(path, level1, (2 * level1.shape[-2], 2 * level1.shape[-1]))
        path = upsample(scratch.output_conv1(path), (PATCH * rows, PATCH * columns))
        out: Tensor = scratch.output_conv2(path)
        return out
