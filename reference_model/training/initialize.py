"""Seeded weights from which a short training gets far: at first the network coarsely fills and copies its sensor depth.

The architecture has no path from sensor to output but through 14x14 patches, two LayerNorms and the decoder; from
arbitrary weights most of a short training goes into finding one. Here one is laid: the depth encoder's first 16
channels are the means of a patch's 4x4 cells, the fusion passes them on, and the decoder's first channel lays
them out and carries them to the end. Two blocks fill cells without a reading: the first finds out which patches have
any, in the second a head that attends to near ones of those brings their mean, which empty cells take. All of it is
trained like any other weight.

Attention starts as in A. Trockman, J. Z. Kolter, "Mimetic Initialization of Self-Attention Layers" (ICML 2023): query
and key see the same projection of a sinusoidal position, so that tokens attend to their neighborhood.
"""

import math

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.dpt import DptHead, FeatureFusion, ResidualConvUnit
from cdm_export.reference_model.backbones.vit import TRAINED_GRID, Block, DinoV2, Mlp
from cdm_export.reference_model.cdm.network import Cdm, TokenPairFusion
from cdm_export.reference_model.config import PATCH

_CELLS = 4
_COPIED = _CELLS * _CELLS
"""Channels that carry the copy."""
_VALID, _NEARBY, _ZERO = _COPIED, _COPIED + 1, _COPIED + 2
"""Channels of the depth encoder: has a reading 0..1, depth of near patches that have, and nothing: what LayerNorm
makes of 0 there is taken off wherever a value is read."""
_POSITION = 2 * _COPIED
"""First channel of the position embedding."""
_GAIN = 0.25
"""Of the copy: small beside the position, whose norm then fixes LayerNorm's scale."""
_START = 0.02
"""1/m at the output where nothing was measured: ReLU passes no gradient at 0."""
_DEVIATION = 0.68
"""That LayerNorm divides by, about: the position's, and a little of everything else."""
_STEEP = 20.0
"""GELU of this many times a value is close to ReLU."""


@torch.no_grad()
def initialize(network: Cdm, seed: int) -> None:
    """Overwrite the weights in place."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for encoder in (network.pretrained, network.depth_pretrained):
        _encoder(encoder)
    _copy_cells(network.depth_pretrained.patch_embed.proj)
    first, second = network.depth_pretrained.blocks[:2]
    assert isinstance(first, Block) and isinstance(second, Block)
    _find_readings(first)
    _fill_cells(second, network.depth_pretrained.config.heads)
    for fusion in network.crossAtts:
        assert isinstance(fusion, TokenPairFusion)
        _fusion(fusion)
    _decoder(network.depth_head_rgbd)


def _encoder(encoder: DinoV2) -> None:
    width = encoder.config.width
    nn.init.trunc_normal_(encoder.patch_embed.proj.weight, std=0.02)
    nn.init.normal_(encoder.cls_token, std=0.02)
    encoder.pos_embed.zero_()
    encoder.pos_embed[0, 1:, _POSITION:] = _sinusoids(width - _POSITION)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        _block(block, width, encoder.config.heads)


def _sinusoids(channels: int) -> Tensor:
    """[37*37, channels]: sine and cosine of rows and of columns, periods from 6 to 100 patches."""
    place = torch.arange(TRAINED_GRID, dtype=torch.float32)
    count = channels // 4
    frequency = 2 * math.pi / (6 * (100 / 6) ** (torch.arange(count) / max(count - 1, 1)))
    waves = torch.cat(((place[:, None] * frequency).sin(), (place[:, None] * frequency).cos()), dim=1)
    rows = waves[:, None].expand(TRAINED_GRID, TRAINED_GRID, 2 * count)
    columns = waves[None].expand(TRAINED_GRID, TRAINED_GRID, 2 * count)
    both = torch.cat((rows, columns), dim=-1).reshape(TRAINED_GRID**2, 4 * count)
    # Every place of the same mean and norm, so that LayerNorm does the same to all.
    return math.sqrt(2 * count) * nn.functional.normalize(both - both.mean(dim=-1, keepdim=True), dim=-1)


def _block(block: Block, width: int, heads: int) -> None:
    """Attend to the neighborhood; leave the copied channels nearly alone."""
    query, key, value = block.attn.qkv.weight.view(3, heads, width // heads, width)
    for head in range(heads):
        basis = nn.init.orthogonal_(torch.empty(width // heads, width - _POSITION))
        sharpness = 0.5 + 0.5 * head / heads
        query[head, :, _POSITION:] += sharpness * basis
        key[head, :, _POSITION:] += sharpness * basis
    nn.init.xavier_uniform_(value.reshape(width, width))
    for linear in (block.attn.proj, *_mlp(block)):
        nn.init.xavier_uniform_(linear.weight)
    for scale in (block.ls1, block.ls2):
        scale.gamma.fill_(0.1)
    for out in (block.attn.proj, _mlp(block)[1]):
        out.weight[:_POSITION] = 0


def _copy_cells(embed: nn.Conv2d) -> None:
    """First channels: cell means. The others see shape only, so that nearness does not change their norm."""
    edges = torch.linspace(0, PATCH, _CELLS + 1)
    pixel = torch.arange(PATCH, dtype=torch.float32)
    # Share of every pixel that lies in every cell, along one axis.
    inside = (torch.minimum(pixel + 1, edges[1:, None]) - torch.maximum(pixel, edges[:-1, None])).clamp(min=0)
    means = torch.einsum("ay,bx->abyx", inside, inside).reshape(_COPIED, 1, PATCH, PATCH) / (PATCH / _CELLS) ** 2
    embed.weight *= 0.4
    embed.weight -= embed.weight.mean(dim=(2, 3), keepdim=True)
    embed.weight[:_COPIED] = _GAIN * means / 3
    embed.weight[[_VALID, _NEARBY, _ZERO]] = 0


def _find_readings(block: Block) -> None:
    """Share of a patch's cells that have readings: 1, less what each lacks of the mean of a wall 6 m away."""
    least = _GAIN / 6 / _DEVIATION
    inwards, outwards = _mlp(block)
    for cell in range(_COPIED):
        inwards.weight[cell] = 0
        inwards.weight[cell, cell], inwards.weight[cell, _ZERO] = -6 / least, 6 / least
        inwards.bias[cell] = 6
    outwards.weight[_VALID, :_COPIED], outwards.bias[_VALID] = -1 / 6 / _COPIED, 1
    block.ls2.gamma[_VALID] = 1


def _fill_cells(block: Block, heads: int) -> None:
    """Head 0 brings the mean of near patches with readings; a cell that is less than a third of it takes the rest."""
    width = block.attn.proj.out_features
    size = width // heads
    query, key, value = block.attn.qkv.weight.view(3, heads, size, width)[:, 0]
    for projection in (query, key, value):
        projection.zero_()
    chosen = torch.linspace(_POSITION, width - 1, size - 4).round().long()
    place = torch.arange(size - 4)
    query[place, chosen] = key[place, chosen] = 1.6
    key[-1, _VALID], key[-1, _ZERO] = 8.0, -8.0
    block.attn.qkv.bias.view(3, heads, size)[0, 0, -1] = 8.0
    value[0, :_COPIED], value[0, _ZERO] = 1 / _COPIED, -1
    block.attn.proj.weight[_NEARBY, 0] = _DEVIATION
    block.ls1.gamma[_NEARBY] = 1
    inwards, outwards = _mlp(block)
    for cell in range(_COPIED):
        inwards.weight[cell] = 0
        inwards.weight[cell, [_NEARBY, cell, _ZERO]] = _STEEP * torch.tensor([1.0, -3.0, 2.0])
        outwards.weight[cell, cell] = _DEVIATION / _STEEP
    block.ls2.gamma[:_COPIED] = 1


def _mlp(block: Block) -> tuple[nn.Linear, nn.Linear]:
    mlp = block.mlp
    assert isinstance(mlp, Mlp)
    return mlp.fc1, mlp.fc2


def _fusion(fusion: TokenPairFusion) -> None:
    """Even attention over both tokens; as the two results are summed, the sum of the tokens comes out."""
    width = fusion.embed_dim
    nn.init.trunc_normal_(fusion.in_proj_weight, std=0.02)
    nn.init.eye_(fusion.in_proj_weight[2 * width :])
    nn.init.eye_(fusion.out_proj.weight)


def _decoder(head: DptHead) -> None:
    """Channel 0 of the finest level and of everything after it carries the copy."""
    for module in head.scratch.modules():
        if isinstance(module, nn.Conv2d):
            module.weight *= 0.3  # Quiet beside the copy: a first step of all of them at once must not drown it.
    for module in head.modules():
        if isinstance(module, ResidualConvUnit):
            module.conv2.weight.zero_()
        elif isinstance(module, FeatureFusion):
            module.out_conv.weight[0] = 0  # What comes from coarser levels stays out of it.
    project, spread = head.projects[0], head.resize_layers[0]
    assert isinstance(project, nn.Conv2d) and isinstance(spread, nn.ConvTranspose2d)
    # Level = (color, color + depth). LayerNorm divides by the position's deviation: sines and cosines, norm 1/2 each.
    width = project.in_channels // 2
    scale = math.sqrt((width - _POSITION) / 2 / width) / _GAIN
    project.weight[:_COPIED] = 0
    spread.weight[:_COPIED] = 0
    spread.weight[:, 0] = 0
    for cell in range(_COPIED):
        project.weight[cell, cell] = -scale
        project.weight[cell, width + cell] = scale
        project.weight[cell, _ZERO], project.weight[cell, width + _ZERO] = scale, -scale
        spread.weight[cell, 0, cell // _CELLS, cell % _CELLS] = 1
    scratch = head.scratch
    first, last = scratch.output_conv2[0], scratch.output_conv2[2]
    assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
    for convolution in (scratch.layer1_rn, scratch.refinenet1.out_conv, scratch.output_conv1, first):
        _pass_first(convolution)
    last.weight.zero_()
    last.weight[0, 0] = 1
    assert last.bias is not None
    last.bias.fill_(_START)


def _pass_first(convolution: nn.Conv2d) -> None:
    middle = convolution.kernel_size[0] // 2
    convolution.weight[0] = 0
    convolution.weight[0, 0, middle, middle] = 1
