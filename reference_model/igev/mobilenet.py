"""MobileNetV2's blocks. Source: Sandler et al., "MobileNetV2" (arXiv 1801.04381); names are timm's, as in the
checkpoint.
"""

import torch.nn.functional as F
from torch import Tensor, nn

_WIDER = 6
"""How many times more channels a block has inside."""


class DepthwiseBlock(nn.Module):
    """The first block: a depthwise convolution, then a 1x1 one."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv_pw = nn.Conv2d(inside, outside, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)

    def forward(self, image: Tensor) -> Tensor:
        """[B, in, h, w] -> [B, out, h, w]."""
        out: Tensor = self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(image)))))
        return out


class InvertedResidual(nn.Module):
    """Wider by a 1x1 convolution, depthwise, narrow again; added to its input where shapes match."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        wide = _WIDER * inside
        self.conv_pw = nn.Conv2d(inside, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv_dw = nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv_pwl = nn.Conv2d(wide, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.adds = stride == 1 and inside == outside

    def forward(self, image: Tensor) -> Tensor:
        """[B, in, h, w] -> [B, out, h/stride, w/stride]."""
        x = F.relu6(self.bn1(self.conv_pw(image)))
        x = F.relu6(self.bn2(self.conv_dw(x)))
        out: Tensor = self.bn3(self.conv_pwl(x))
        return image + out if self.adds else out


def stage(inside: int, outside: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width, the first with the stride."""
    rest = [InvertedResidual(outside, outside, 1) for _ in range(blocks - 1)]
    return nn.Sequential(InvertedResidual(inside, outside, stride), *rest)
