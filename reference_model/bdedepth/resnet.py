"""ResNet18 with a stem of its own at the image's size.

Sources: arXiv 1512.03385 and arXiv 2309.05254 with its reference implementation. Names are the checkpoint's: the whole
classifier is in it, its last layer too, which nothing here reads.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.bdedepth.blocks import BasicBlock, conv


class ResNet18(nn.Module):
    """The classifier as torchvision has it, of which the layers are used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(64, 64, stride=1)
        self.layer2 = _layer(64, 128, stride=2)
        self.layer3 = _layer(128, 256, stride=2)
        self.layer4 = _layer(256, 512, stride=2)
        self.fc = nn.Linear(512, 1000)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps of 64, 64, 128, 256, 512 channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the size."""
        levels = [F.relu(self.bn1(self.conv1(image)))]
        levels.append(self.layer1(self.maxpool(levels[-1])))
        for layer in (self.layer2, self.layer3, self.layer4):
            levels.append(layer(levels[-1]))
        return levels


class ResNetEncoder(nn.Module):
    """ResNet18, and what a stem without stride sees, from which the finest row of the decoder starts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ResNet18()
        self.conv1 = conv(3, 64, 7)
        self.bn1 = nn.BatchNorm2d(64)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized image [B, 3, H, W] -> six maps [B, C, H / 2^i, W / 2^i], finest first."""
        context = F.relu(self.bn1(self.conv1(image)))
        return [context, *self.encoder(image)]


def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs))
