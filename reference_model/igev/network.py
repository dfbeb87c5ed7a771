"""IGEV-Stereo: a pair of images in, the left image's disparity out.

Source: Xu, Wang, Ding and Yang, "Iterative Geometry Encoding Volume for Stereo Matching" (arXiv 2303.06615) and its
reference implementation. State dict and order of operations are the original's, in the form that its
demonstration runs (``test_mode``): only the last iteration's disparity is upsampled.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import (
    ConvGru,
    FlowHead,
    ResidualBlock,
    Trunk,
    columns_of,
    pair_of_blocks,
)
from cdm_export.reference_model.igev.config import DISPARITIES, FACTOR, GROUPS, HIDDEN, ITERATIONS, LEVELS, RADIUS
from cdm_export.reference_model.igev.layers import (
    ContextUpsample,
    FeatureAttention,
    GeometryPyramids,
    GroupVolume,
    Regression,
    SampledGeometry,
    UpAndJoin,
    conv_3d,
    conv_in,
    up_3d,
)
from cdm_export.reference_model.igev.mobilenet import DepthwiseBlock, stage
from cdm_export.runtimes.contract import Size


class Features(nn.Module):
    """MobileNetV2 down to 1/32 of the image, and back to 1/4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 32, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.block0 = nn.Sequential(nn.Sequential(DepthwiseBlock(32, 16)))
        self.block1 = nn.Sequential(stage(16, 24, 2, 2))
        self.block2 = nn.Sequential(stage(24, 32, 3, 2))
        self.block3 = nn.Sequential(stage(32, 64, 4, 2), stage(64, 96, 3, 1))
        self.block4 = nn.Sequential(stage(96, 160, 3, 2))
        self.deconv32_16 = UpAndJoin(160, 96)
        self.deconv16_8 = UpAndJoin(192, 32)
        self.deconv8_4 = UpAndJoin(64, 24)
        self.conv4 = conv_in(48, 48)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> [B, 48, H/4, W/4], [B, 64, H/8, W/8], [B, 192, H/16, W/16], [B, 160, H/32, W/32]."""
        quarter = self.block1(self.block0(F.relu6(self.bn1(self.conv_stem(images)))))
        eighth = self.block2(quarter)
        sixteenth = self.block3(eighth)
        coarsest = self.block4(sixteenth)
        sixteenth = self.deconv32_16(coarsest, sixteenth)
        eighth = self.deconv16_8(sixteenth, eighth)
        return [self.conv4(self.deconv8_4(eighth, quarter)), eighth, sixteenth, coarsest]


class Hourglass(nn.Module):
    """The volume of correlations, made coarser three times and finer again, guided by the left image."""

    def __init__(self) -> None:
        super().__init__()
        one, two, four, six = GROUPS, 2 * GROUPS, 4 * GROUPS, 6 * GROUPS
        self.conv1 = nn.Sequential(conv_3d(one, two, stride=2), conv_3d(two, two))
        self.conv2 = nn.Sequential(conv_3d(two, four, stride=2), conv_3d(four, four))
        self.conv3 = nn.Sequential(conv_3d(four, six, stride=2), conv_3d(six, six))
        self.conv3_up = up_3d(six, four)
        self.conv2_up = up_3d(four, two)
        self.conv1_up = up_3d(two, one, plain=True)
        self.agg_0 = nn.Sequential(conv_3d(2 * four, four, 1), conv_3d(four, four), conv_3d(four, four))
        self.agg_1 = nn.Sequential(conv_3d(2 * two, two, 1), conv_3d(two, two), conv_3d(two, two))
        self.feature_att_8 = FeatureAttention(two, 64)
        self.feature_att_16 = FeatureAttention(four, 192)
        self.feature_att_32 = FeatureAttention(six, 160)
        self.feature_att_up_16 = FeatureAttention(four, 192)
        self.feature_att_up_8 = FeatureAttention(two, 64)

    def forward(self, volume: Tensor, features: Sequence[Tensor]) -> Tensor:
        """[B, 8, D, h, w] and the left image's features -> the same shape."""
        _, eighth, sixteenth, coarsest = features
        first = self.feature_att_8(self.conv1(volume), eighth)
        second = self.feature_att_16(self.conv2(first), sixteenth)
        third = self.feature_att_32(self.conv3(second), coarsest)
        second = self.agg_0(torch.cat((self.conv3_up(third), second), dim=1))
        second = self.feature_att_up_16(second, sixteenth)
        first = self.agg_1(torch.cat((self.conv2_up(second), first), dim=1))
        out: Tensor = self.conv1_up(self.feature_att_up_8(first, eighth))
        return out


class ContextEncoder(Trunk):
    """What every GRU starts from and is fed with, on its own grid."""

    def __init__(self) -> None:
        super().__init__("batch", 2)
        self.layer4 = pair_of_blocks(128, 128, "batch", 2)
        self.layer5 = pair_of_blocks(128, 128, "batch", 2)

        def output() -> nn.Module:
            return nn.Sequential(ResidualBlock(128, 128, "batch"), nn.Conv2d(128, HIDDEN, 3, padding=1))

        self.outputs04 = nn.ModuleList(output() for _ in range(2))
        self.outputs08 = nn.ModuleList(output() for _ in range(2))
        self.outputs16 = nn.ModuleList(nn.Conv2d(128, HIDDEN, 3, padding=1) for _ in range(2))

    def forward(self, image: Tensor) -> list[list[Tensor]]:
        """[B, 3, H, W] -> per GRU, finest first, what its state starts as and its context, [B, 128, ...] each."""
        fine = self.features(image)
        middle = self.layer4(fine)
        coarse = self.layer5(middle)
        grids = ((fine, self.outputs04), (middle, self.outputs08), (coarse, self.outputs16))
        return [[head(features) for head in heads] for features, heads in grids]


class MotionEncoder(nn.Module):
    """What was looked up and the disparity as one map."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (GROUPS + 1) * (2 * RADIUS + 1), 64, 1)
        self.convc2 = nn.Conv2d(64, 64, 3, padding=1)
        self.convd1 = nn.Conv2d(1, 64, 7, padding=3)
        self.convd2 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv = nn.Conv2d(128, 127, 3, padding=1)

    def forward(self, disparity: Tensor, seen: Tensor) -> Tensor:
        """[B, 1, h, w] and [B, 162, h, w] -> [B, 128, h, w]."""
        seen = F.relu(self.convc2(F.relu(self.convc1(seen))))
        moved = F.relu(self.convd2(F.relu(self.convd1(disparity))))
        mixed = F.relu(self.conv(torch.cat((seen, moved), dim=1)))
        return torch.cat((mixed, disparity), dim=1)


def _coarser(state: Tensor) -> Tensor:
    return F.avg_pool2d(state, 3, stride=2, padding=1)


def _as_fine(state: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(state, size=other.shape[-2:], mode="bilinear", align_corners=True)


class UpdateBlock(nn.Module):
    """One iteration over all GRUs, the coarsest first."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru04 = ConvGru(HIDDEN, 2 * HIDDEN)
        self.gru08 = ConvGru(HIDDEN, 2 * HIDDEN)
        self.gru16 = ConvGru(HIDDEN, HIDDEN)
        self.disp_head = FlowHead(HIDDEN, 256, 1)
        self.mask_feat_4 = nn.Sequential(nn.Conv2d(HIDDEN, 32, 3, padding=1), nn.ReLU())

    def forward(
        self, states: list[Tensor], contexts: Sequence[Sequence[Tensor]], seen: Tensor, disparity: Tensor
    ) -> Tensor:
        """Update ``states``, finest first; the step [B, 1, h, w], coarse pixels."""
        states[2] = self.gru16(states[2], contexts[2], _coarser(states[1]))
        states[1] = self.gru08(states[1], contexts[1], _coarser(states[0]), _as_fine(states[2], states[1]))
        motion = self.encoder(disparity, seen)
        states[0] = self.gru04(states[0], contexts[0], motion, _as_fine(states[1], states[0]))
        step: Tensor = self.disp_head(states[0])
        return step


def _stem(inside: int, outside: int) -> nn.Sequential:
    """Half the size, in two convolutions."""
    second = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
    return nn.Sequential(conv_in(inside, outside, 2), second, nn.InstanceNorm2d(outside), nn.ReLU())


class Igev(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    mask_path = "update_block.mask_feat_4"

    def __init__(self, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.iterations = iterations
        self.every_mask = True
        """Whether every iteration computes features of an upsampling, although only the last one is upsampled."""
        self.cnet = ContextEncoder()
        self.update_block = UpdateBlock()
        self.context_zqr_convs = nn.ModuleList(nn.Conv2d(HIDDEN, 3 * HIDDEN, 3, padding=1) for _ in range(3))
        self.feature = Features()
        self.stem_2 = _stem(3, 32)
        self.stem_4 = _stem(32, 48)
        # For the first disparity's own upsampling, in training: in the checkpoint, and never read.
        self.spx = nn.Sequential(nn.ConvTranspose2d(64, 9, 4, 2, padding=1))
        self.spx_2 = UpAndJoin(24, 32)
        fourth = nn.Conv2d(24, 24, 3, padding=1, bias=False)
        self.spx_4 = nn.Sequential(conv_in(96, 24), fourth, nn.InstanceNorm2d(24), nn.ReLU())
        self.spx_2_gru = UpAndJoin(32, 32, batch_norm=True)
        self.spx_gru = nn.Sequential(nn.ConvTranspose2d(64, 9, 4, 2, padding=1))
        self.conv = conv_in(96, 96)
        self.desc = nn.Conv2d(96, 96, 1)
        self.corr_stem = conv_3d(GROUPS, GROUPS)
        self.corr_feature_att = FeatureAttention(GROUPS, 96)
        self.cost_agg = Hourglass()
        self.classifier = nn.Conv3d(GROUPS, 1, 3, padding=1, bias=False)
        self.group_volume = GroupVolume(GROUPS, DISPARITIES)
        self.regression = Regression()
        self.volume = GeometryPyramids(LEVELS)
        self.lookup = SampledGeometry(RADIUS)
        self.upsample = ContextUpsample(FACTOR)

    def updates(self, size: Size) -> list[tuple[int, int]]:
        """Pixels of the grid whose disparity is updated, and how often it is."""
        return [((size.height // FACTOR) * (size.width // FACTOR), self.iterations)]

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two images in -1..1, [B, 3, H, W], sides multiples of 32 -> disparity [B, 1, H, W], px, column in the left
        image minus column in the right one.
        """
        batch = left.shape[0]
        both = torch.cat((left, right))
        features = self.feature(both)
        half = self.stem_2(both)
        features[0] = torch.cat((features[0], self.stem_4(half)), dim=1)
        match = self.desc(self.conv(features[0]))
        of_left, of_right = match[:batch], match[batch:]
        guides = [level[:batch] for level in features]
        volume = self.corr_stem(self.group_volume(of_left, of_right))
        volume = self.cost_agg(self.corr_feature_att(volume, guides[0]), guides)
        disparity = self.regression(self.classifier(volume))
        levels = self.cnet(left)
        states = [torch.tanh(level[0]) for level in levels]
        contexts = [
            convolution(F.relu(level[1])).chunk(3, dim=1)
            for level, convolution in zip(levels, self.context_zqr_convs, strict=True)
        ]
        pyramids = self.volume(of_left, of_right, volume)
        start = columns_of(of_left)
        for iteration in range(1, self.iterations + 1):
            seen = self.lookup(pyramids, disparity, start)
            step = self.update_block(states, contexts, seen, disparity)
            if self.every_mask or iteration == self.iterations:
                weights = self.update_block.mask_feat_4(states[0])
            disparity = disparity + step
        logits = self.spx_gru(self.spx_2_gru(weights, half[:batch]))
        out: Tensor = self.upsample(disparity, logits)
        return out
