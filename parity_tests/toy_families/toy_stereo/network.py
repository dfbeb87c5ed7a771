"""Features of both eyes, their correlation over a few disparities as one product, soft argmax."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DISPARITIES = 16
"""Pixels that are looked at, from 0."""


class ToyStereo(nn.Module):
    """Two [B, 3, H, W] -> disparity of the left image in pixels [B, 1, H, W]; sides are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1))
        self.costs = nn.Conv2d(DISPARITIES, 32, 3, padding=1)
        self.refine = nn.Conv2d(32, DISPARITIES, 3, padding=1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Pixels, 0 to 15."""
        ours, theirs = (F.normalize(self.features(image), dim=1) for image in (left, right))
        padded = F.pad(theirs, (DISPARITIES - 1, 0))
        width = left.shape[-1]
        shifted = [padded[..., DISPARITIES - 1 - d : DISPARITIES - 1 - d + width] for d in range(DISPARITIES)]
        volume = torch.stack([(ours * other).sum(dim=1) for other in shifted], dim=1)
        score = 24 * volume + self.refine(F.relu(self.costs(volume)))
        places = torch.arange(DISPARITIES, dtype=torch.float32).reshape(1, -1, 1, 1)
        return (score.softmax(dim=1) * places).sum(dim=1, keepdim=True)


def seed(network: nn.Module, generator: torch.Generator) -> None:
    """Random features; what comes after the correlation only moves it a little."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4:
            gain = 0.3 if name.startswith("refine") else 1.0
            parameter.normal_(0, gain * (2 / parameter[0].numel()) ** 0.5, generator=generator)
        else:
            parameter.normal_(0, 0.02, generator=generator)
