"""RAFT-Stereo: a pair of images in, the left image's horizontal flow out (negative disparity).

Source: Lipson, Teed and Deng, "RAFT-Stereo: Multilevel Recurrent Field Transforms for Stereo Matching" (arXiv
2109.07547) and its reference implementation (MIT). State dict and order of operations are the original's, in the form
that its demonstration runs (``test_mode``): only the last iteration's flow is upsampled.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import (
    AllPairs,
    ConvexUpsample,
    ConvGru,
    FlowHead,
    Norm,
    ResidualBlock,
    SampledLookup,
    Trunk,
    columns_of,
    pair_of_blocks,
)
from cdm_export.reference_model.raft_stereo.config import HIDDEN, LEVELS, RADIUS, RaftStereoConfig
from cdm_export.runtimes.contract import Size

_MOTION = 128
"""Channels of what the motion encoder hands on."""
_FEATURES = 256
"""Channels that are correlated."""


class FeatureEncoder(Trunk):
    """What is correlated; both images in one batch."""

    def __init__(self, downsample: int) -> None:
        super().__init__("instance", downsample)
        self.conv2 = nn.Conv2d(128, _FEATURES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[2 B, 3, H, W] -> [2 B, 256, h, w]."""
        out: Tensor = self.conv2(self.features(images))
        return out


class ContextEncoder(Trunk):
    """What every GRU starts from and is fed with, on its own grid."""

    def __init__(self, norm: Norm, downsample: int) -> None:
        super().__init__(norm, downsample)
        self.layer4 = pair_of_blocks(128, 128, norm, 2)
        self.layer5 = pair_of_blocks(128, 128, norm, 2)

        def output() -> nn.Module:
            return nn.Sequential(ResidualBlock(128, 128, norm), nn.Conv2d(128, HIDDEN, 3, padding=1))

        self.outputs08 = nn.ModuleList(output() for _ in range(2))
        self.outputs16 = nn.ModuleList(output() for _ in range(2))
        self.outputs32 = nn.ModuleList(nn.Conv2d(128, HIDDEN, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor, layers: int) -> list[list[Tensor]]:
        """[B, 128, h, w] -> per GRU, finest first, what its state starts as and its context, [B, 128, ...] each."""
        levels = [[head(features) for head in self.outputs08]]
        if layers > 1:
            features = self.layer4(features)
            levels.append([head(features) for head in self.outputs16])
        if layers > 2:
            features = self.layer5(features)
            levels.append([head(features) for head in self.outputs32])
        return levels


class MotionEncoder(nn.Module):
    """Correlations and flow as one map."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1), 64, 1)
        self.convc2 = nn.Conv2d(64, 64, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 64, 7, padding=3)
        self.convf2 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv = nn.Conv2d(128, _MOTION - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """[B, 2, h, w] and [B, 36, h, w] -> [B, 128, h, w]."""
        seen = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        mixed = F.relu(self.conv(torch.cat((seen, moved), dim=1)))
        return torch.cat((mixed, flow), dim=1)


def _coarser(state: Tensor) -> Tensor:
    return F.avg_pool2d(state, 3, stride=2, padding=1)


def _as_fine(state: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(state, size=other.shape[-2:], mode="bilinear", align_corners=True)


class UpdateBlock(nn.Module):
    """One iteration over all GRUs."""

    def __init__(self, config: RaftStereoConfig) -> None:
        super().__init__()
        self.layers = config.layers
        self.encoder = MotionEncoder()
        self.gru08 = ConvGru(HIDDEN, _MOTION + HIDDEN * (config.layers > 1))
        self.gru16 = ConvGru(HIDDEN, HIDDEN * (config.layers == 3) + HIDDEN)
        self.gru32 = ConvGru(HIDDEN, HIDDEN)
        self.flow_head = FlowHead(HIDDEN, 256, 2)
        self.mask = nn.Sequential(
            nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * 4**config.downsample, 1)
        )

    def coarse(
        self, states: list[Tensor], contexts: Sequence[Sequence[Tensor]], *, coarsest: bool, middle: bool
    ) -> None:
        """Update the coarser GRUs in ``states``, coarsest first."""
        if coarsest:
            states[2] = self.gru32(states[2], contexts[2], _coarser(states[1]))
        if middle and self.layers > 2:
            states[1] = self.gru16(states[1], contexts[1], _coarser(states[0]), _as_fine(states[2], states[1]))
        elif middle:
            states[1] = self.gru16(states[1], contexts[1], _coarser(states[0]))

    def forward(
        self, states: list[Tensor], contexts: Sequence[Sequence[Tensor]], correlation: Tensor, flow: Tensor
    ) -> Tensor:
        """Update ``states``; the step [B, 2, h, w]."""
        self.coarse(states, contexts, coarsest=self.layers == 3, middle=self.layers > 1)
        motion = self.encoder(flow, correlation)
        if self.layers > 1:
            states[0] = self.gru08(states[0], contexts[0], motion, _as_fine(states[1], states[0]))
        else:
            states[0] = self.gru08(states[0], contexts[0], motion)
        out: Tensor = self.flow_head(states[0])
        return out


class RaftStereo(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    mask_path = "update_block.mask"

    def __init__(self, config: RaftStereoConfig, iterations: int) -> None:
        super().__init__()
        self.config = config
        self.iterations = iterations
        self.every_mask = True
        """Whether every iteration computes the weights of an upsampling, although only the last one is upsampled."""
        self.cnet = ContextEncoder(config.context_norm, config.downsample)
        self.update_block = UpdateBlock(config)
        self.context_zqr_convs = nn.ModuleList(
            nn.Conv2d(HIDDEN, 3 * HIDDEN, 3, padding=1) for _ in range(config.layers)
        )
        if config.shared_backbone:
            self.conv2 = nn.Sequential(ResidualBlock(128, 128, "instance"), nn.Conv2d(128, _FEATURES, 3, padding=1))
        else:
            self.fnet = FeatureEncoder(config.downsample)
        self.volume = AllPairs(LEVELS)
        self.lookup = SampledLookup(RADIUS)
        self.upsample = ConvexUpsample(2**config.downsample)

    def updates(self, size: Size) -> list[tuple[int, int]]:
        """Pixels of every grid whose flow is updated, and how often it is."""
        shift = self.config.downsample
        return [((size.height >> shift) * (size.width >> shift), self.iterations)]

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two images in -1..1, [B, 3, H, W], sides multiples of 32 -> flow [B, 1, H, W], px, column in the right image
        minus column in the left one.
        """
        batch = left.shape[0]
        both = torch.cat((left, right))
        if self.config.shared_backbone:
            trunk = self.cnet.features(both)
            levels = self.cnet(trunk[:batch], self.config.layers)
            features = self.conv2(trunk)
        else:
            levels = self.cnet(self.cnet.features(left), self.config.layers)
            features = self.fnet(both)
        states = [torch.tanh(level[0]) for level in levels]
        contexts = [
            convolution(F.relu(level[1])).chunk(3, dim=1)
            for level, convolution in zip(levels, self.context_zqr_convs, strict=True)
        ]
        pyramid = self.volume(features[:batch], features[batch:])
        start = columns_of(features[:batch])
        place = start
        for iteration in range(1, self.iterations + 1):
            correlation = self.lookup(pyramid, place)
            flow = place - start
            if self.config.slow_fast and self.config.layers == 3:
                self.update_block.coarse(states, contexts, coarsest=True, middle=False)
            if self.config.slow_fast:
                self.update_block.coarse(states, contexts, coarsest=self.config.layers == 3, middle=True)
            both_ways = torch.cat((flow, torch.zeros_like(flow)), dim=1)  # nothing moves up or down
            step = self.update_block(states, contexts, correlation, both_ways)
            if self.every_mask or iteration == self.iterations:
                weights = 0.25 * self.update_block.mask(states[0])
            place = place + step[:, :1]
        out: Tensor = self.upsample(place - start, weights)
        return out
