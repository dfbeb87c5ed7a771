"""MiDaS v3.1 with a BEiT or SwinV2 encoder: one color image in, relative inverse depth out.

Source: Birkl et al., "MiDaS v3.1 - A Model Zoo for Robust Monocular Relative Depth Estimation" (arXiv 2307.14460) and
its code (MIT). State dict and order of operations are the original's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.dpt import FeatureFusion, Grid
from cdm_export.reference_model.midas.beit import PATCH as BEIT_PATCH
from cdm_export.reference_model.midas.beit import Beit
from cdm_export.reference_model.midas.config import BeitConfig, MidasConfig
from cdm_export.reference_model.midas.swin2 import Swin2
from cdm_export.runtimes.contract import Size

FEATURES = 256
"""Channels of the decoder's path."""


class Readout(nn.Module):
    """What the class token knows goes into every patch: a linear layer over both, then GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, 1 + T, C] -> [B, T, C]."""
        patches = tokens[:, 1:]
        out: Tensor = self.project(torch.cat((patches, tokens[:, :1].expand_as(patches)), dim=-1))
        return out


def _reassemble(width: int, channels: int, resize: nn.Module | None) -> nn.ModuleDict:
    """Tokens to an image level; the names are the original's places in a sequence."""
    parts: dict[str, nn.Module] = {"0": Readout(width), "3": nn.Conv2d(width, channels, 1)}
    return nn.ModuleDict(parts if resize is None else {**parts, "4": resize})


class Pretrained(nn.Module):
    """Encoder and reassembly; the name is the original's, kept for the state dict."""

    def __init__(self, config: MidasConfig) -> None:
        super().__init__()
        encoder = config.encoder
        if isinstance(encoder, BeitConfig):
            c0, c1, c2, c3 = encoder.levels
            self.model: nn.Module = Beit(encoder)
            self.act_postprocess1 = _reassemble(encoder.width, c0, nn.ConvTranspose2d(c0, c0, 4, stride=4))
            self.act_postprocess2 = _reassemble(encoder.width, c1, nn.ConvTranspose2d(c1, c1, 2, stride=2))
            self.act_postprocess3 = _reassemble(encoder.width, c2, None)
            self.act_postprocess4 = _reassemble(encoder.width, c3, nn.Conv2d(c3, c3, 3, stride=2, padding=1))
        else:
            self.model = Swin2(encoder)

    def forward(self, image: Tensor) -> Sequence[Tensor]:
        """[B, 3, H, W], sides multiples of 32 -> four image levels, of a quarter to a 32nd of the image's sides."""
        levels: Sequence[Tensor] = self.model(image)
        if not hasattr(self, "act_postprocess1"):
            return levels
        rows, columns = image.shape[-2] // BEIT_PATCH, image.shape[-1] // BEIT_PATCH
        images = []
        for number, tokens in enumerate(levels, start=1):
            parts: nn.ModuleDict = self.get_submodule(f"act_postprocess{number}")  # type: ignore[assignment]
            patches = parts["0"](tokens)
            level = parts["3"](patches.transpose(1, 2).reshape(tokens.shape[0], -1, rows, columns))
            images.append(parts["4"](level) if "4" in parts else level)
        return images


class Scratch(nn.Module):
    """Decoder; the name is the original's, kept for the state dict."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        c0, c1, c2, c3 = levels
        self.layer1_rn = nn.Conv2d(c0, FEATURES, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(c1, FEATURES, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(c2, FEATURES, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(c3, FEATURES, 3, padding=1, bias=False)
        self.refinenet1 = FeatureFusion(FEATURES)
        self.refinenet2 = FeatureFusion(FEATURES)
        self.refinenet3 = FeatureFusion(FEATURES)
        self.refinenet4 = FeatureFusion(FEATURES)
        self.output_conv = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES // 2, 3, padding=1),
            nn.UpsamplingBilinear2d(scale_factor=2),  # aligned corners
            nn.Conv2d(FEATURES // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Four levels, finest first -> [B, 1, H, W], >= 0."""
        level1, level2 = self.layer1_rn(levels[0]), self.layer2_rn(levels[1])
        level3, level4 = self.layer3_rn(levels[2]), self.layer4_rn(levels[3])
        path = self.refinenet4(level4, None, level3.shape[-2:])
        path = self.refinenet3(path, level3, level2.shape[-2:])
        path = self.refinenet2(path, level2, level1.shape[-2:])
        path = self.refinenet1(path, level1, (2 * level1.shape[-2], 2 * level1.shape[-1]))
        out: Tensor = self.output_conv(path)
        return out


class Midas(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    def __init__(self, config: MidasConfig) -> None:
        super().__init__()
        self.pretrained = Pretrained(config)
        self.scratch = Scratch(config.encoder.levels)

    def level_grids(self, size: Size) -> tuple[Grid, Grid, Grid, Grid]:
        """See ``DptDecoder``."""
        finest, second, third, coarsest = ((size.height // step, size.width // step) for step in (4, 8, 16, 32))
        return finest, second, third, coarsest

    def resize_slot(self, level: int) -> tuple[nn.Module, str] | None:
        """See ``DptDecoder``; SwinV2's stages have the decoder's grids."""
        parts = getattr(self.pretrained, f"act_postprocess{level + 1}", None)
        return (parts, "4") if isinstance(parts, nn.ModuleDict) and "4" in parts else None

    def forward(self, image: Tensor) -> Tensor:
        """Image in -1..1 [B, 3, H, W], sides multiples of 32 -> relative inverse depth [B, 1, H, W], >= 0; thousands
        are common.
        """
        out: Tensor = self.scratch(self.pretrained(image))
        return out
