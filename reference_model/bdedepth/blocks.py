"""Residual blocks that both encoders are made of.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), with the attribute names that
torchvision gave them.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the size, or divides it by ``stride``: what precedes a BatchNorm."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool = False) -> nn.Sequential:
    """Convolution, BatchNorm and perhaps a ReLU, as the checkpoint numbers them."""
    last = (nn.ReLU(),) if relu else ()
    return nn.Sequential(conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), *last)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.downsample = conv_norm(inputs, outputs, 1, stride) if changes else None

    def forward(self, image: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h / stride, w / stride]."""
        out = F.relu(self.bn1(self.conv1(image)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (image if self.downsample is None else self.downsample(image)))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, which narrow and widen by four; beside it as in ``BasicBlock``."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = conv_norm(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, image: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, 4 * width, h, w]."""
        out = F.relu(self.bn1(self.conv1(image)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (image if self.downsample is None else self.downsample(image)))
