"""The interface that every artifact has: images are RGB 0..1, whatever the weights want."""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.variant import ImageStatistics


class ImageNormalization(nn.Module):
    """RGB 0..1 -> the planes the weights expect: reordered, minus mean, over standard deviation.

    The statistics stay in R, G, B order. ``bgr`` is how the reference implementation of CDM runs its weights: it swaps
    channels twice. ``rgb`` does not swap.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, order: ChannelOrder, statistics: ImageStatistics) -> None:
        super().__init__()
        self.planes = (2, 1, 0) if order == "bgr" else (0, 1, 2)
        self.register_buffer("mean", torch.tensor(statistics.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(statistics.std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] RGB 0..1 -> [B, 3, H, W] normalized."""
        planes = image if self.planes == (0, 1, 2) else image[:, list(self.planes)]
        return (planes - self.mean) / self.std


class ExportableNetwork(nn.Module):
    """A network behind the interface; images are its first inputs, others go in as they are."""

    def __init__(
        self,
        network: nn.Module,
        order: ChannelOrder,
        statistics: ImageStatistics,
        images: int = 1,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        plain = order == "rgb" and statistics.mean == (0.0, 0.0, 0.0) and statistics.std == (1.0, 1.0, 1.0)
        self.normalize: nn.Module = nn.Identity() if plain else ImageNormalization(order, statistics)
        self.network = network
        self.images = images
        self.output_scale = output_scale
        self.projection = statistics.projection
        """See ``ImageStatistics``."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """[B, 3, H, W] RGB 0..1 for every image, and the network's other inputs -> the network's output, scaled."""
        images = [self.normalize(image) for image in inputs[: self.images]]
        out: Tensor = self.network(*images, *inputs[self.images :])
        return out if self.output_scale == 1 else out * self.output_scale
