"""nndepth's RAFT-Stereo: one encoder for both images and the context, one GRU.

Source: the program nndepth (anhtu293/nndepth, Apache-2.0) as it is; what it does unlike the paper is kept: places
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
    FlowHead,
    columns_of,
    pair_of_blocks,
)
from cdm_export.reference_model.nndepth.config import FACTOR, FEATURES, HIDDEN, LEVELS, RADIUS, NndepthRaftConfig


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


class MotionEncoder(nn.Module):
    """Correlations and flow as one map."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1), 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(1, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, HIDDEN - 1, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """[B, 1, h, w] and [B, 36, h, w] -> [B, 128, h, w]."""
        seen = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        mixed = F.relu(self.conv(torch.cat((seen, moved), dim=1)))
        return torch.cat((mixed, flow), dim=1)


class SepConvGru(nn.Module):
    """Convolutional GRU along rows, then along columns."""

    def __init__(self, context: int) -> None:
        super().__init__()
        inside = HIDDEN + context + HIDDEN
        self.convz1 = nn.Conv2d(inside, HIDDEN, (1, 5), padding=(0, 2))
        self.convr1 = nn.Conv2d(inside, HIDDEN, (1, 5), padding=(0, 2))
        self.convq1 = nn.Conv2d(inside, HIDDEN, (1, 5), padding=(0, 2))
        self.convz2 = nn.Conv2d(inside, HIDDEN, (5, 1), padding=(2, 0))
        self.convr2 = nn.Conv2d(inside, HIDDEN, (5, 1), padding=(2, 0))
        self.convq2 = nn.Conv2d(inside, HIDDEN, (5, 1), padding=(2, 0))

    def prepare(self, context: Tensor) -> tuple[Tensor, ...]:
        """What every iteration needs of the context [B, C, h, w]: the context."""
        return (context,)

    def forward(self, state: Tensor, motion: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """State [B, 128, h, w], motion of the same shape, and what was prepared -> the next state."""
        x = torch.cat((*context, motion), dim=1)
        for z_of, r_of, q_of in ((self.convz1, self.convr1, self.convq1), (self.convz2, self.convr2, self.convq2)):
            both = torch.cat((state, x), dim=1)
            z, r = torch.sigmoid(z_of(both)), torch.sigmoid(r_of(both))
            q = torch.tanh(q_of(torch.cat((r * state, x), dim=1)))
            state = (1 - z) * state + z * q
        return state


class UpdateBlock(nn.Module):
    """One iteration."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = SepConvGru(context)
        self.flow_head = FlowHead(HIDDEN, HIDDEN, 1)
        self.mask = nn.Sequential(
            nn.Conv2d(HIDDEN, 2 * HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * HIDDEN, 9 * FACTOR**2, 1)
        )

    def forward(
        self, state: Tensor, context: tuple[Tensor, ...], correlation: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next state [B, 128, h, w] and the step [B, 1, h, w]."""
        state = self.gru(state, self.encoder(flow, correlation), context)
        return state, self.flow_head(state)


class NndepthRaft(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    def __init__(self, config: NndepthRaftConfig, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.every_mask = True
        """Whether every iteration computes the weights of an upsampling, of which only the last one is read."""
        self.fnet = BasicEncoder()
        self.cnet_proj = nn.Sequential(nn.Conv2d(FEATURES, config.context + HIDDEN, 3, padding=1), nn.ReLU())
        self.update_block = UpdateBlock(config.context)
        self.volume = AllPairs(LEVELS)
        self.lookup = ClampedLookup(RADIUS)
        self.upsample = ConvexUpsample(FACTOR)

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
