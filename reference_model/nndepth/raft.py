"""nndepth's RAFT-Stereo: one encoder for both images and the context, one GRU.

Source: the program nndepth (anhtu293/nndepth, MIT) as it is; what it does unlike the paper is kept: places
outside of a row read its nearest end, the GRU's state starts from what a ReLU left. State dict and order of operations
are the original's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import (
    AllPairs,
    ClampedLookup,
    ConvexUpsample,
    columns_of,
    pair_of_blocks,
)
from cdm_export.reference_model.backbones.raft_update import HIDDEN, UpdateBlock
from cdm_export.reference_model.nndepth.config import FACTOR, FEATURES, LEVELS, RADIUS, NndepthRaftConfig
from cdm_export.runtimes.contract import Size


class BasicEncoder(nn.Module):
    """Convolutions from the image to an eighth of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.norm1 = nn.BatchNorm2d(64)
        self.layer1 = pair_of_blocks(64, 64, "batch", 1, always_project=True)
        self.layer2 = pair_of_blocks(64, 96, "batch", 2, always_project=True)
        self.layer3 = pair_of_blocks(96, 128, "batch", 2, always_project=True)
        self.conv2 = nn.Conv2d(128, FEATURES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 256, H/8, W/8]."""
        x = F.relu(self.norm1(self.conv1(images)))
        out: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return out


class NndepthRaft(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    mask_path = "update_block.mask"

    def __init__(self, config: NndepthRaftConfig, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.every_mask = True
        """Whether every iteration computes the weights of an upsampling, of which only the last one is read."""
        self.fnet = BasicEncoder()
        self.cnet_proj = nn.Sequential(nn.Conv2d(FEATURES, config.context + HIDDEN, 3, padding=1), nn.ReLU())
        self.update_block = UpdateBlock(LEVELS * (2 * RADIUS + 1), config.context, FACTOR)
        self.volume = AllPairs(LEVELS)
        self.lookup = ClampedLookup(RADIUS)
        self.upsample = ConvexUpsample(FACTOR)

    def updates(self, size: Size) -> list[tuple[int, int]]:
        """Pixels of every grid that is updated, and how often it is."""
        return [((size.height // FACTOR) * (size.width // FACTOR), self.iterations)]

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two images in -1..1, [B, 3, H, W], sides multiples of 8 -> flow [B, 1, H, W], px, column in the right image
        minus column in the left one.
        """
        batch = left.shape[0]
        features = self.fnet(torch.cat((left, right)))
        projected = self.cnet_proj(features[:batch])
        state = torch.tanh(projected[:, :HIDDEN])
        context = self.update_block.gru.prepare(F.relu(projected[:, HIDDEN:]))
        pyramid = self.volume(features[:batch], features[batch:])
        start = columns_of(features[:batch])
        place = start
        for iteration in range(1, self.iterations + 1):
            correlation = self.lookup(pyramid, place)
            state, step = self.update_block(state, context, correlation, place - start)
            if self.every_mask or iteration == self.iterations:
                weights = 0.25 * self.update_block.mask(state)
            place = place + step
        out: Tensor = self.upsample(place - start, weights)
        return out
