"""BDEdepth: one color image in, a disparity in 0..1 out, from which depth follows up to the scale of the scene.

Source: Liu et al., "Towards Better Data Exploitation in Self-Supervised Monocular Depth Estimation" (arXiv 2309.05254)
and its reference implementation. An encoder with six maps, and a decoder that is a grid of six rows and three columns.
State dict and order of operations are the original's. Its files hold the encoder under ``encoder`` and the decoder
under ``depth``: so do these attributes.
"""

from torch import Tensor, nn

from cdm_export.reference_model.bdedepth.config import COLUMNS, BdeDepthConfig
from cdm_export.reference_model.bdedepth.hrnet import HrNetEncoder
from cdm_export.reference_model.bdedepth.resnet import ResNetEncoder


class ReflectedConv(nn.Module):
    """3x3 convolution whose border is the image, mirrored."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv = nn.Conv2d(inputs, outputs, 3)

    def forward(self, image: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h, w]."""
        out: Tensor = self.conv(self.pad(image))
        return out


class DepthDecoder(nn.Module):
    """A grid: rows are resolutions, coarsest first; every column refines a row and adds what the row below sends up.

    The list numbers its parts as the checkpoint does: row by row, finest first, what goes right and what goes up taking
    turns; the convolution that makes the output ends the finest row.
    """

    def __init__(self, config: BdeDepthConfig) -> None:
        super().__init__()
        grid = config.grid
        self.rows = len(grid)
        self._number: dict[tuple[str, int, int], int] = {}
        parts: list[nn.Module] = []
        for row, width in enumerate(grid):
            for column in range(COLUMNS):
                self._number["right", row, column] = len(parts)
                parts.append(_right(width if column else config.features[row], width))
                if row + 1 < self.rows:
                    self._number["up", row, column] = len(parts)
                    parts.append(_up(grid[row + 1], width))
            if row == 0:
                self._number["out", 0, 0] = len(parts)
                parts.append(ReflectedConv(width, 1))
        self.decoder = nn.ModuleList(parts)
        self.sigmoid = nn.Sigmoid()

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Six maps [B, C, H / 2^i, W / 2^i], finest first -> [B, 1, H, W], 0..1."""
        sent: list[Tensor] = []
        for row in reversed(range(self.rows)):
            image, below, sent = levels[row], sent, []
            for column in range(COLUMNS):
                image = self._part("right", row, column)(image)
                if below:
                    image = image + below[column]
                if row:
                    sent.append(self._part("up", row - 1, column)(image))
        out: Tensor = self.sigmoid(self._part("out", 0, 0)(image))
        return out

    def _part(self, kind: str, row: int, column: int) -> nn.Module:
        return self.decoder[self._number[kind, row, column]]


class BdeDepth(nn.Module):
    """The original's two networks as one; attribute names are the checkpoint's."""

    def __init__(self, config: BdeDepthConfig) -> None:
        super().__init__()
        self.encoder = ResNetEncoder() if config.encoder == "resnet18" else HrNetEncoder()
        self.depth = DepthDecoder(config)

    def forward(self, image: Tensor) -> Tensor:
        """Normalized image [B, 3, H, W], sides multiples of 32 -> disparity [B, 1, H, W], 0..1, larger is nearer."""
        out: Tensor = self.depth(self.encoder(image))
        return out


def _right(inputs: int, outputs: int) -> nn.Sequential:
    """Two activations, each before its convolution; nothing goes around them."""
    return nn.Sequential(
        nn.PReLU(), nn.Conv2d(inputs, outputs, 3, padding=1), nn.PReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    """To twice the size, half-pixel centers."""
    upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(upsample, nn.PReLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
