"""An encoder and a decoder with a skip, a padded stem and a GroupNorm: nothing that any family of ours has."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ToyCnn(nn.Module):
    """[B, 3, H, W] normalized -> depth in meters [B, 1, H, W]; sides are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.deep = nn.Conv2d(32, 32, 3, padding=1)
        self.loud = nn.Conv2d(32, 32, 1)
        self.quiet = nn.Conv2d(32, 16, 1)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Meters, around 2."""
        fine = F.relu(self.norm(self.stem(image)))
        coarse = self.down(fine)
        coarse = coarse + F.gelu(self.deep(coarse))
        coarse = self.quiet(self.loud(coarse))
        return 1 + F.softplus(self.head(self.up(coarse) + fine))


def seed(network: nn.Module, generator: torch.Generator) -> None:
    """By shapes, with one activation far beyond what half holds, and taken back by the layer after it."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
        else:
            parameter.normal_(0, 0.1, generator=generator)
    network.get_parameter("norm.weight").fill_(1.0)
    network.get_parameter("loud.weight").mul_(3e4)
    network.get_parameter("quiet.weight").div_(3e4)
