"""HRNet-W18 with a stem of its own at the image's size: branches of four resolutions, mixed again and again.

Sources: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition" (arXiv 1908.07919), and
arXiv 2309.05254 with its reference implementation. Names are the checkpoint's. Where a branch goes on as it is the
original holds nothing, so that numbers are left out; here these places are keys of a ``ModuleDict``.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.bdedepth.blocks import BasicBlock, Bottleneck, conv, conv_norm

WIDTHS = (18, 36, 72, 144)
"""Channels of the branches at 1/4, 1/8, 1/16 and 1/32 of the image's size."""
_BLOCKS = 4
"""Of a branch in every module, and of the first layer."""
_MODULES = {2: 1, 3: 4, 4: 3}
"""By the number of branches, which is that of the stage."""


class HighResolutionModule(nn.Module):
    """Blocks on every branch; then every branch becomes the sum of all, brought to its resolution and width."""

    def __init__(self, branches: int) -> None:
        super().__init__()
        widths = WIDTHS[:branches]
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(_BLOCKS))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleDict({str(source): _fuse(source, target) for source in range(branches) if source != target})
            for target in range(branches)
        )

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, 18 * 2^i, h / 2^i, w / 2^i] -> as many of the same shapes."""
        made = [branch(image) for branch, image in zip(self.branches, images, strict=True)]
        fused = []
        for target, fuse in enumerate(self.fuse_layers):
            assert isinstance(fuse, nn.ModuleDict)
            total: Tensor | None = None
            for source, image in enumerate(made):
                part = image if source == target else fuse[str(source)](image)
                if source > target:
                    size = made[target].shape[-2:]
                    part = F.interpolate(part, size=size, mode="bilinear", align_corners=True)
                total = part if total is None else total + part
            assert total is not None
            fused.append(F.relu(total))
        return fused


class HrNet18(nn.Module):
    """Stem, a layer of bottlenecks and three stages, each of which adds a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = conv(64, 64, 3, stride=2)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(_BLOCKS - 1)))
        self.transition1 = nn.ModuleDict({"0": conv_norm(256, WIDTHS[0], 3, relu=True), "1": _one_down(256, WIDTHS[1])})
        self.stage2 = _stage(2)
        self.transition2 = nn.ModuleDict({"2": _one_down(WIDTHS[1], WIDTHS[2])})
        self.stage3 = _stage(3)
        self.transition3 = nn.ModuleDict({"3": _one_down(WIDTHS[2], WIDTHS[3])})
        self.stage4 = _stage(4)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps of 64, 18, 36, 72, 144 channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the size."""
        half = F.relu(self.bn1(self.conv1(image)))
        quarter = self.layer1(F.relu(self.bn2(self.conv2(half))))
        images = self.stage2([self.transition1["0"](quarter), self.transition1["1"](quarter)])
        images = self.stage3([*images, self.transition2["2"](images[-1])])
        images = self.stage4([*images, self.transition3["3"](images[-1])])
        return [half, *images]


class HrNetEncoder(nn.Module):
    """HRNet-W18, and what a stem without stride sees, from which the finest row of the decoder starts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = HrNet18()
        self.context_conv = conv(3, 64, 3)
        self.context_bn = nn.BatchNorm2d(64)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized image [B, 3, H, W] -> six maps [B, C, H / 2^i, W / 2^i], finest first."""
        levels: list[Tensor] = self.encoder(image)
        return [F.relu(self.context_bn(self.context_conv(image))), *levels]


def _stage(branches: int) -> nn.Sequential:
    return nn.Sequential(*(HighResolutionModule(branches) for _ in range(_MODULES[branches])))


def _one_down(inputs: int, outputs: int) -> nn.Sequential:
    """A new branch of half the size, in the list of one that the original makes of it."""
    return nn.Sequential(conv_norm(inputs, outputs, 3, stride=2, relu=True))


def _fuse(source: int, target: int) -> nn.Sequential:
    """From one branch to another: a 1x1 convolution before the upsampling, or a chain that halves the size."""
    if source > target:
        return conv_norm(WIDTHS[source], WIDTHS[target], 1)
    kept = (conv_norm(WIDTHS[source], WIDTHS[source], 3, stride=2, relu=True) for _ in range(target - source - 1))
    return nn.Sequential(*kept, conv_norm(WIDTHS[source], WIDTHS[target], 3, stride=2))
