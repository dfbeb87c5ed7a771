"""Transposed convolution (kernel = stride = r) and the 3x3 after it: one 2x2 convolution on the coarse grid.

A fine pixel's 3x3 window touches at most two coarse pixels per axis. Seen from a corner between 2x2 coarse pixels, the
r x r fine pixels around it read those four and no others:

    y = conv_3x3(transposed(x) + b)   ->   y = crop(shuffle_r(conv_2x2(pad(x)))) + m

Every fine pixel is one of r^2 phases, with 2x2 weights of its own. The corners reach half a coarse pixel beyond the
image, which is cropped. m is the response to b alone. At the border the zero padding sees no b, so m has nine values
per channel: corners, edges, interior. These are stored; runtimes spread them over the map when they load the graph.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.dpt import DptDecoder
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class PhaseConvolution(nn.Module):
    """[B, C, h, w] -> [B, F, r h, r w]."""

    rows: Tensor
    columns: Tensor

    def __init__(self, factor: int, weight: Tensor, offset: Tensor, rows: Tensor, columns: Tensor) -> None:
        """``offset``: m of [1, F, 3, 3]; ``rows`` [r h] and ``columns`` [r w]: which of it a fine pixel takes."""
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.offset = nn.Parameter(offset, requires_grad=False)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, image: Tensor) -> Tensor:
        """One convolution for all phases, then pixels from channels."""
        edge = self.factor // 2
        around_corners = F.pixel_shuffle(F.conv2d(image, self.weight, padding=1), self.factor)
        offset = self.offset.index_select(2, self.rows).index_select(3, self.columns)
        return around_corners[:, :, edge:-edge, edge:-edge] + offset


@torch.no_grad()
def _rewrite(transposed: nn.ConvTranspose2d, convolution: nn.Conv2d, rows: int, columns: int) -> PhaseConvolution:
    factor = transposed.stride[0]
    spread, smooth = transposed.weight.double(), convolution.weight.double()
    assert transposed.bias is not None
    # The weights are the answer to unit impulses: each input channel alone, at each of four coarse pixels (2x2).
    # The r x r fine pixels around their common corner are the phases.
    channels = transposed.in_channels
    weight = torch.empty(convolution.out_channels * factor**2, channels, 2, 2, dtype=spread.dtype)
    for row in range(2):
        for column in range(2):
            fine = torch.zeros(channels, transposed.out_channels, 2 * factor, 2 * factor, dtype=spread.dtype)
            fine[:, :, row * factor :, column * factor :][:, :, :factor, :factor] = spread
            seen = F.conv2d(fine, smooth, padding=1)
            edge = factor // 2
            around = seen[:, :, edge : edge + factor, edge : edge + factor]
            weight[:, :, row, column] = around.flatten(1).t()
    places = [_places(factor * length) for length in (rows, columns)]
    constant = transposed.bias.double()[None, :, None, None].expand(-1, -1, *(int(one.max()) + 1 for one in places))
    offset = F.conv2d(constant, smooth, padding=1)
    kind = convolution.weight.dtype
    return PhaseConvolution(factor, weight.to(kind), offset.to(kind), *places)


def _places(length: int) -> Tensor:
    """First, interior, last: 0, 1 ... 1, 2 of ``length`` pixels; 0, 1 of two."""
    places = torch.ones(length, dtype=torch.int64)
    places[0], places[-1] = 0, min(length - 1, 2)
    return places


def _levels(network: nn.Module) -> Iterator[tuple[str, DptDecoder, int, nn.ConvTranspose2d]]:
    """Levels of every decoder that a transposed convolution makes finer: path, decoder, number, that convolution."""
    for path, head in network.named_modules():
        for level in (0, 1) if isinstance(head, DptDecoder) else ():
            resize = getattr(*slot) if (slot := head.resize_slot(level)) else None
            if isinstance(resize, nn.ConvTranspose2d):
                yield path, head, level, resize


def check(network: nn.Module) -> str | None:
    """Every transposed convolution only spreads pixels, by an even factor, and a plain 3x3 without a bias reads it."""
    found = 0
    for path, head, level, resize in _levels(network):
        factor, name, where = resize.stride[0], f"layer{level + 1}_rn", f"level {level + 1} of {path}"
        if factor % 2:
            return f"what resizes {where} has stride {factor}, the rule is exact for even ones"
        plain = {"padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1), "groups": 1}
        square = {"kernel_size": (factor, factor), "stride": (factor, factor)}
        reason = mismatch(f"what resizes {where}", resize, bias=True, **square, **plain)
        same = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
        if reason := reason or mismatch(f"{path}.scratch.{name}", getattr(head.scratch, name), bias=False, **same):
            return reason
        found += 1
    return None if found else "there is no DPT decoder with transposed convolutions"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite the two finest levels of every decoder."""
    modules = macs = nodes = 0
    for _, head, level, resize in list(_levels(network)):
        rows, columns = head.level_grids(size)[2]
        name = f"layer{level + 1}_rn"
        convolution = getattr(head.scratch, name)
        rewritten = _rewrite(resize, convolution, rows, columns)
        before = resize.weight.numel() + convolution.weight.numel() * resize.stride[0] ** 2
        macs += before * rows * columns - rewritten.weight.numel() * (rows + 1) * (columns + 1)
        setattr(head.scratch, name, rewritten)
        slot = head.resize_slot(level)
        assert slot is not None
        setattr(*slot, nn.Identity())
        modules += 1
        nodes -= 3  # what spreads a large offset reads constants, and is gone once a runtime has loaded the graph
    return Saving(modules, macs=macs, nodes=nodes)
