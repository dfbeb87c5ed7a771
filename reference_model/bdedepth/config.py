"""Sizes of the BDEdepth networks, and what the numbers that they make mean."""

from dataclasses import dataclass
from typing import Literal

MULTIPLE = 32
"""Pixels; both sides of the network's image are multiples of it, for the encoders halve it five times."""
COLUMNS = 3
"""Of the decoder's grid."""
MIN_DEPTH, MAX_DEPTH = 0.1, 100.0
"""Depth that an output of 1 and of 0 means, up to the scale of the scene: no meters."""


@dataclass(frozen=True)
class BdeDepthConfig:
    """Size of one network."""

    encoder: Literal["resnet18", "hrnet18"]
    """What reads the image."""
    features: tuple[int, ...]
    """Channels of the encoder's maps, from the size of the image down to 1/32 of it, each half the one before."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Channels of the decoder's rows, finest first."""
        return (16, *(channels // 2 for channels in self.features[1:]))


CONFIGS = {
    "resnet18": BdeDepthConfig("resnet18", (64, 64, 64, 128, 256, 512)),
    "hrnet18": BdeDepthConfig("hrnet18", (64, 64, 18, 36, 72, 144)),
}
"""By the name of the encoder."""
