"""CREStereo: a pair of images in, the left image's flow out, from a coarse grid to a fine one.

Sources: Li et al., "Practical Stereo Matching via Cascaded Recurrent Network with Adaptive Correlation" (arXiv
2203.11483); its PyTorch port, which has no license file, for facts only; nndepth. State dict and order of operations
are the originals'; the position encoding keeps their frequencies, which a slip in operator precedence made.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import ConvexUpsample, pair_of_blocks
from cdm_export.reference_model.backbones.raft_update import HIDDEN, UpdateBlock
from cdm_export.reference_model.crestereo.config import FEATURES, GROUPS, SEARCHED, CreStereoConfig
from cdm_export.runtimes.contract import Size

HEADS = 8


class Encoder(nn.Module):
    """Convolutions from the image to a fourth or an eighth of it; norms without parameters."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.norm1 = nn.InstanceNorm2d(64)
        self.layer1 = pair_of_blocks(64, 64, "instance", 1, always_project=True)
        self.layer2 = pair_of_blocks(64, 96, "instance", 2, always_project=True)
        self.layer3 = pair_of_blocks(96, 128, "instance", factor // 4, always_project=True)
        self.conv2 = nn.Conv2d(128, FEATURES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 256, h, w]."""
        x = F.relu(self.norm1(self.conv1(images)))
        out: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return out


class LinearAttention(nn.Module):
    """LoFTR's layer: attention without a softmax, whose cost grows with the tokens and not with their square."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(FEATURES, FEATURES, bias=False)
        self.k_proj = nn.Linear(FEATURES, FEATURES, bias=False)
        self.v_proj = nn.Linear(FEATURES, FEATURES, bias=False)
        self.merge = nn.Linear(FEATURES, FEATURES, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * FEATURES, 2 * FEATURES, bias=False), nn.ReLU(), nn.Linear(2 * FEATURES, FEATURES, bias=False)
        )
        self.norm1 = nn.LayerNorm(FEATURES)
        self.norm2 = nn.LayerNorm(FEATURES)

    def forward(self, tokens: Tensor, source: Tensor) -> Tensor:
        """[B, N, 256] and [B, S, 256] -> [B, N, 256]."""
        batch, count, _ = tokens.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.reshape(batch, -1, HEADS, FEATURES // HEADS).transpose(1, 2)

        query = F.elu(heads(self.q_proj(tokens))) + 1
        key = F.elu(heads(self.k_proj(source))) + 1
        value = heads(self.v_proj(source)) / source.shape[1]
        weight = query @ key.sum(dim=2)[..., None] + 1e-6
        mixed = (query @ (key.transpose(-2, -1) @ value)) / weight * source.shape[1]
        message = self.norm1(self.merge(mixed.transpose(1, 2).reshape(batch, count, FEATURES)))
        out: Tensor = tokens + self.norm2(self.mlp(torch.cat((tokens, message), dim=2)))
        return out


class Transformer(nn.Module):
    """One such layer; the list is the original's, kept for the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([LinearAttention()])

    def to_itself(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Two [B, 256, h, w], each attends to itself."""
        ours, theirs = as_tokens(left), as_tokens(right)
        layer = self.layers[0]
        return as_image(layer(ours, ours), left), as_image(layer(theirs, theirs), right)

    def to_the_other(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Two [B, 256, h, w]: the left attends to the right, then the right to what became of the left."""
        ours, theirs = as_tokens(left), as_tokens(right)
        layer = self.layers[0]
        ours = layer(ours, theirs)
        return as_image(ours, left), as_image(layer(theirs, ours), right)


def as_tokens(image: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h*w, C]."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def as_image(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, h*w, C] -> [B, C, h, w]."""
    return tokens.reshape(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


def position_encoding(like: Tensor) -> Tensor:
    """[1, 256, h, w] of sines and cosines; their frequencies fall by e^2 from one to the next."""
    height, width = like.shape[2:]
    steps = torch.arange(0, FEATURES // 2, 2, dtype=torch.float32) * (-math.log(10000.0) / FEATURES // 2)
    rates = steps.exp()[:, None, None]
    down = torch.arange(1, height + 1, dtype=torch.float32)[None, :, None].expand(1, height, width)
    across = torch.arange(1, width + 1, dtype=torch.float32)[None, None, :].expand(1, height, width)
    waves = [torch.sin(across * rates), torch.cos(across * rates), torch.sin(down * rates), torch.cos(down * rates)]
    return torch.stack(waves, dim=1).flatten(0, 1)[None].to(like)


def pixels_of(like: Tensor) -> Tensor:
    """Column and row of every pixel, [1, 2, h, w]; as wide as the network in float64, float32 otherwise."""
    kind = torch.float64 if like.dtype == torch.float64 else torch.float32
    height, width = like.shape[2:]
    columns = torch.arange(width, dtype=kind, device=like.device).expand(height, width)
    rows = torch.arange(height, dtype=kind, device=like.device)[:, None].expand(height, width)
    return torch.stack((columns, rows))[None]


def sampled(image: Tensor, places: Tensor) -> Tensor:
    """[B, C, h, w] at columns and rows [B, h', w', 2] -> [B, C, h', w'], 0 outside."""
    height, width = image.shape[2:]
    extent = torch.tensor((width - 1, height - 1), dtype=places.dtype, device=places.device)
    return F.grid_sample(image, 2 * places / extent - 1, align_corners=True)


def window_of(small: bool) -> tuple[int, int]:
    """Rows and columns of the searched window; updates take turns."""
    return (3, 3) if small else (1, SEARCHED)


def by_groups(products: Tensor) -> Tensor:
    """Products of channels [B, 256, n, h, w] -> [B, 4 * n, h, w], the mean of every group, group by group."""
    batch, _, count, height, width = products.shape
    means = products.reshape(batch * GROUPS, FEATURES // GROUPS, count, height, width).mean(dim=1)
    return means.reshape(batch, GROUPS * count, height, width)


class LearnedSearch(nn.Module):
    """Correlation with nine places around where the flow points, moved by learned offsets."""

    def forward(self, left: Tensor, right: Tensor, flow: Tensor, offsets: Tensor, small: bool) -> Tensor:
        """Features [B, 256, h, w], flow [B, 2, h, w], offsets [B, 18, h, w] -> [B, 36, h, w]."""
        batch, _, height, width = flow.shape
        rows, columns = window_of(small)
        across = torch.arange(columns, dtype=flow.dtype, device=flow.device) - columns // 2
        down = torch.arange(rows, dtype=flow.dtype, device=flow.device) - rows // 2
        steps = torch.stack((across.expand(rows, columns), down[:, None].expand(rows, columns))).flatten(1).T
        moved = offsets.reshape(batch, SEARCHED, 2, height, width) + steps[None, :, :, None, None]
        places = (pixels_of(left) + flow)[:, None] + moved
        places = places.permute(0, 1, 3, 4, 2).reshape(batch, SEARCHED * height, width, 2)
        seen = sampled(right, places).reshape(batch, FEATURES, SEARCHED, height, width)
        return by_groups(left[:, :, None] * seen)


class LocalSearch(nn.Module):
    """Correlation with a window of the right image, warped to where the flow points."""

    def forward(self, left: Tensor, right: Tensor, flow: Tensor, small: bool) -> Tensor:
        """Features [B, 256, h, w] and flow [B, 2, h, w] -> [B, 36, h, w]."""
        height, width = left.shape[2:]
        rows, columns = window_of(small)
        warped = sampled(right, (pixels_of(left) + flow).permute(0, 2, 3, 1))
        padded = F.pad(warped, (columns // 2, columns // 2, rows // 2, rows // 2), mode="replicate")
        seen = [
            padded[:, :, row : row + height, column : column + width]
            for row in range(rows)
            for column in range(columns)
        ]
        return by_groups(left[:, :, None] * torch.stack(seen, dim=2))


class CreStereo(nn.Module):
    """The original network; attribute names are the checkpoint's."""

    mask_path = "update_block.mask"

    def __init__(self, config: CreStereoConfig, iterations: int) -> None:
        super().__init__()
        self.config = config
        self.iterations = iterations
        self.every_mask = True
        """Whether every update computes weights of an upsampling, although only a grid's last one is read."""
        self.every_attention = True
        """Whether the coarsest grid's images attend to each other in every update, although neither changes."""
        self.fnet = Encoder(config.factor)
        correlations = GROUPS * SEARCHED
        self.update_block = UpdateBlock(correlations, HIDDEN, config.factor, planes=2, head=config.head)
        self.self_att_fn = Transformer()
        self.cross_att_fn = Transformer()
        self.conv_offset_16 = nn.Conv2d(FEATURES, 2 * SEARCHED, 3, padding=1)
        self.conv_offset_8 = nn.Conv2d(FEATURES, 2 * SEARCHED, 3, padding=1)
        self.learned_search = LearnedSearch()
        self.local_search = LocalSearch()
        self.upsample = ConvexUpsample(config.factor)

    def updates(self, size: Size) -> list[tuple[int, int]]:
        """Pixels of every grid whose flow is updated, and how often it is."""

        def grids(height: int, width: int) -> list[tuple[int, int]]:
            counts = [(4, self.iterations // 2), (2, self.iterations // 2), (1, self.iterations)]
            factor = self.config.factor
            return [((height // (factor * n)) * (width // (factor * n)), times) for n, times in counts]

        if not self.config.cascade:
            return grids(size.height, size.width)
        return [*grids(size.height // 2, size.width // 2), grids(size.height, size.width)[-1]]

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two images in -1..1, [B, 3, H, W], sides multiples of 32 -> [B, 1, H, W], px: with a ``sign`` of -1 the left
        column minus the right one, of 1 the right one minus the left one.
        """
        start = None
        if self.config.cascade:
            half = [
                F.interpolate(
                    image, size=(image.shape[2] // 2, image.shape[3] // 2), mode="bilinear", align_corners=True
                )
                for image in (left, right)
            ]
            start = self._flow(half[0], half[1], None)
        return self._flow(left, right, start)[:, :1]

    def _flow(self, left: Tensor, right: Tensor, start: Tensor | None) -> Tensor:
        """Flow [B, 2, H, W] of two images; ``start``: that of smaller ones, which spares the coarser grids."""
        batch = left.shape[0]
        features = self.fnet(torch.cat((left, right)))
        ours, theirs = features[:batch], features[batch:]
        state, context = torch.tanh(ours[:, :HIDDEN]), F.relu(ours[:, HIDDEN:])
        flow = self._coarse(ours, theirs, state, context) if start is None else start
        flow = self._handed_on(flow, ours)
        prepared = self.update_block.gru.prepare(context)
        for iteration in range(self.iterations):
            correlation = self.local_search(ours, theirs, flow, iteration % 2 == 1)
            state, step = self.update_block(state, prepared, correlation, flow)
            if self.every_mask or iteration == self.iterations - 1:
                weights = 0.25 * self.update_block.mask(state)
            flow = flow + step
        out: Tensor = self.config.sign * self.upsample(flow, weights)
        return out

    def _handed_on(self, flow: Tensor, to: Tensor) -> Tensor:
        """A flow as the next grid takes it: its size, its pixels, its sign."""
        scale = self.config.sign * to.shape[2] / flow.shape[2]
        return scale * F.interpolate(flow, size=to.shape[2:], mode="bilinear", align_corners=True)

    def _coarse(self, ours: Tensor, theirs: Tensor, state: Tensor, context: Tensor) -> Tensor:
        """Flow of the two coarser grids, [B, 2, ...], upsampled."""
        offsets, images = [], []
        for step, convolution in ((4, self.conv_offset_16), (2, self.conv_offset_8)):
            images.append([F.avg_pool2d(image, step, stride=step) for image in (ours, theirs)])
            offsets.append((torch.sigmoid(convolution(images[-1][0])) - 0.5) * 2.0)
        encoding = position_encoding(images[0][0])
        images[0] = list(self.self_att_fn.to_itself(images[0][0] + encoding, images[0][1] + encoding))
        flow = torch.zeros_like(images[0][0][:, :2], dtype=pixels_of(ours).dtype)
        for level, step in enumerate((4, 2)):
            left, right = images[level]
            if level:
                flow = self._handed_on(flow, left)
            now = F.avg_pool2d(state, step, stride=step)
            prepared = self.update_block.gru.prepare(F.avg_pool2d(context, step, stride=step))
            for iteration in range(self.iterations // 2):
                if level == 0 and (self.every_attention or iteration == 0):
                    seen = self.cross_att_fn.to_the_other(left, right)
                elif level:
                    seen = (left, right)
                correlation = self.learned_search(*seen, flow, offsets[level], iteration % 2 == 1)
                now, moved = self.update_block(now, prepared, correlation, flow)
                if self.every_mask or iteration == self.iterations // 2 - 1:
                    weights = 0.25 * self.update_block.mask(now)
                flow = flow + moved
            flow = self.upsample(flow, weights)
        return flow
