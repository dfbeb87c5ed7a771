"""The exportable that every artifact has: the image is RGB 0..1, whatever the weights want."""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.config import ChannelOrder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGE_PROJECTION = "pretrained.patch_embed.proj"
"""Path, in the networks that stand behind ``ExportableNetwork``, of the convolution that reads the image."""


class ImageNormalization(nn.Module):
    """RGB 0..1 -> the planes the weights expect: reordered, minus mean, over standard deviation.

    The statistics stay in R, G, B order. ``bgr`` is how the reference implementation of CDM runs its weights: it swaps
    channels twice. ``rgb`` does not swap.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, order: ChannelOrder) -> None:
        super().__init__()
        self.planes = (2, 1, 0) if order == "bgr" else (0, 1, 2)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] RGB 0..1 -> [B, 3, H, W] normalized."""
        return (image[:, list(self.planes)] - self.mean) / self.std


class ExportableNetwork(nn.Module):
    """A network behind the interface; the image is its first input, others go in as they are."""

    def __init__(self, network: nn.Module, order: ChannelOrder) -> None:
        super().__init__()
        self.normalize = ImageNormalization(order)
        self.network = network

    def forward(self, image: Tensor, *others: Tensor) -> Tensor:
        """[B, 3, H, W] RGB 0..1 and the network's other inputs -> the network's output."""
        out: Tensor = self.network(self.normalize(image), *others)
        return out
