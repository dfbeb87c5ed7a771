"""Parts of IGEV-Stereo without a state, or with convolution and norm only. Attribute names are the checkpoint's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import as_planes


class NormedConv(nn.Module):
    """A convolution, a norm and a leaky ReLU; either may be left out, as the original does."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, *, plain: bool = False) -> None:
        """``plain``: the norm is in the checkpoint, but nothing comes after the convolution."""
        super().__init__()
        self.conv = convolution
        name = "IN" if isinstance(norm, nn.InstanceNorm2d) else "bn"
        setattr(self, name, norm)
        self.norm_name = "" if plain else name

    def forward(self, image: Tensor) -> Tensor:
        """[B, in, ...] -> [B, out, ...]."""
        out: Tensor = self.conv(image)
        return F.leaky_relu(getattr(self, self.norm_name)(out), 0.01) if self.norm_name else out


def conv_in(inside: int, outside: int, stride: int = 1) -> NormedConv:
    """3x3 with an instance norm, which has no weights."""
    convolution = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
    return NormedConv(convolution, nn.InstanceNorm2d(outside))


def conv_3d(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> NormedConv:
    """A 3-D convolution with a batch norm."""
    convolution = nn.Conv3d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    return NormedConv(convolution, nn.BatchNorm3d(outside))


def up_3d(inside: int, outside: int, *, plain: bool = False) -> NormedConv:
    """A transposed 3-D convolution that doubles every side."""
    convolution = nn.ConvTranspose3d(inside, outside, 4, 2, padding=1, bias=False)
    return NormedConv(convolution, nn.BatchNorm3d(outside), plain=plain)


class UpAndJoin(nn.Module):
    """Twice as fine, next to what is known there, mixed."""

    def __init__(self, inside: int, outside: int, *, batch_norm: bool = False) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if batch_norm else nn.InstanceNorm2d
        up = nn.ConvTranspose2d(inside, outside, 4, 2, padding=1, bias=False)
        self.conv1 = NormedConv(up, norm(outside))
        mix = nn.Conv2d(2 * outside, 2 * outside, 3, padding=1, bias=False)
        self.conv2 = NormedConv(mix, norm(2 * outside))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """[B, in, h, w] and [B, out, 2 h, 2 w] -> [B, 2 out, 2 h, 2 w]."""
        out: Tensor = self.conv2(torch.cat((self.conv1(coarse), fine), dim=1))
        return out


class FeatureAttention(nn.Module):
    """The image's features open and close channels of the volume, the same for all disparities."""

    def __init__(self, volume: int, features: int) -> None:
        super().__init__()
        inner = nn.Conv2d(features, features // 2, 1, bias=False)
        self.feat_att = nn.Sequential(
            NormedConv(inner, nn.BatchNorm2d(features // 2)), nn.Conv2d(features // 2, volume, 1)
        )

    def forward(self, volume: Tensor, features: Tensor) -> Tensor:
        """[B, V, D, h, w] and [B, F, h, w] -> [B, V, D, h, w]."""
        return torch.sigmoid(self.feat_att(features)[:, :, None]) * volume


class GroupVolume(nn.Module):
    """Mean products of groups of channels, at every disparity; 0 where the right image has no such column."""

    def __init__(self, groups: int, disparities: int) -> None:
        super().__init__()
        self.groups = groups
        self.disparities = disparities

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two [B, C, h, w] -> [B, groups, disparities, h, w]."""
        batch, channels, height, width = left.shape
        before = self.disparities - 1
        padded = F.pad(right, (before, 0))
        planes = []
        for disparity in range(self.disparities):
            shifted = padded[..., before - disparity : before - disparity + width]
            products = (left * shifted).reshape(batch, self.groups, channels // self.groups, height, width)
            planes.append(products.mean(dim=2))
        return torch.stack(planes, dim=2)


class Regression(nn.Module):
    """The mean disparity, by softmax."""

    def forward(self, logits: Tensor) -> Tensor:
        """[B, 1, D, h, w] -> [B, 1, h, w], coarse pixels."""
        shares = logits[:, 0].softmax(dim=1)
        values = torch.arange(shares.shape[1], dtype=shares.dtype, device=shares.device)
        return (shares * values[None, :, None, None]).sum(dim=1, keepdim=True)


class GeometryPyramids(nn.Module):
    """What is looked up: the geometry's volume and all pairs' products, ever coarser along disparities and rows."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, left: Tensor, right: Tensor, volume: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features [B, C, h, w], volume [B, G, D, h, w] -> per level [B*h*w, G, D / 2^level] and
        [B*h*w, w / 2^level]; products are not divided, as the original's.
        """
        geometry = volume.permute(0, 3, 4, 1, 2).flatten(0, 2)
        rows = (left.permute(0, 2, 3, 1) @ right.permute(0, 2, 1, 3)).flatten(0, 2)
        pyramids = [(geometry, rows)]
        for _ in range(self.levels - 1):
            geometry, rows = F.avg_pool1d(geometry, 2), F.avg_pool1d(rows[:, None], 2)[:, 0]
            pyramids.append((geometry, rows))
        return pyramids


def _sampled(rows: Tensor, places: Tensor) -> Tensor:
    """Between columns, 0 outside: [N, C, W] at [N, n] -> [N, C, n]."""
    across = 2 * places / (rows.shape[-1] - 1) - 1
    grid = torch.stack((across, torch.zeros_like(across)), dim=-1)[:, None]
    return F.grid_sample(rows[:, :, None], grid, align_corners=True)[:, :, 0]


class SampledGeometry(nn.Module):
    """Both pyramids around a disparity, as upstream reads them: by image sampling."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, pyramids: Sequence[tuple[Tensor, Tensor]], disparity: Tensor, start: Tensor) -> Tensor:
        """Pyramids, disparity and own columns [B, 1, h, w] -> [B, levels * (G + 1) * (2 radius + 1), h, w]."""
        offsets = torch.arange(-self.radius, self.radius + 1, dtype=disparity.dtype, device=disparity.device)
        moved, own = disparity.reshape(-1, 1), start.reshape(-1, 1)
        samples = []
        for level, (geometry, rows) in enumerate(pyramids):
            scale = 2**level
            samples.append(_sampled(geometry, offsets + moved / scale).flatten(1))
            samples.append(_sampled(rows[:, None], own / scale - moved / scale + offsets)[:, 0])
        return as_planes(samples, disparity)


class ContextUpsample(nn.Module):
    """Every fine pixel is a weighted mean of the coarse pixel that it lies in and its eight neighbors."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, disparity: Tensor, logits: Tensor) -> Tensor:
        """Disparity [B, 1, h, w] in coarse pixels and logits [B, 9, factor h, factor w] -> as the logits, 1 plane."""
        batch, _, height, width = disparity.shape
        around = F.unfold(self.factor * disparity, 3, padding=1).reshape(batch, 9, height, width)
        near = F.interpolate(around, scale_factor=self.factor, mode="nearest")
        return (near * logits.softmax(dim=1)).sum(dim=1, keepdim=True)
