"""SmoothQuant by folding: outlier channels of an activation move into the weights of the layer that reads it.

    LN(x) W^T        ->  (LN(x) / s) (W diag(s))^T        gamma, beta / s, and columns of W * s
    softmax(..) V P  ->  softmax(..) (V / s) (P diag(s))   rows of V / s, and columns of the projection * s

Xiao et al., "SmoothQuant" (arXiv 2211.10438): s = max|x|^a / max|w|^(1-a) per channel. Here s is rounded to a power of
two, so that folding changes no bit of any product, and the strength a is chosen per layer, by the error that the
quantized layer makes on rows of real frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdm_export.quantize.layers import LARGEST, rounded
from cdm_export.reference_model.policies import QuantizationPolicy, matching

STRENGTHS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Tried beside none at all."""


@dataclass(frozen=True)
class Smoothable:
    """A layer whose input channels can be scaled for nothing."""

    path: str
    """Of the layer."""
    layer: nn.Linear
    """Its columns take ``s``."""
    divided: tuple[Tensor, ...]
    """What is divided by ``s`` along its first axis: LayerNorm's scale and offset, or V's rows and offsets."""


def smoothable(network: nn.Module, policy: QuantizationPolicy) -> Iterator[Smoothable]:
    """What a family says of its blocks, as far as it is in this network."""
    modules = dict(network.named_modules())
    for block in matching(modules, (policy.blocks,)) if policy.blocks else ():
        for smoothing in policy.smoothings:
            path = f"{block}.{smoothing.layer}"
            layer, divided = modules.get(path), modules.get(f"{block}.{smoothing.divided}")
            if not isinstance(layer, nn.Linear):
                continue
            if isinstance(divided, nn.LayerNorm):
                yield Smoothable(path, layer, (divided.weight, divided.bias))
            elif isinstance(divided, nn.Linear):
                value = slice(divided.out_features - layer.in_features, None)  # queries and keys come first
                yield Smoothable(path, layer, (divided.weight[value], divided.bias[value]))


@torch.no_grad()
def choose_scales(layer: nn.Linear, largest: Tensor, rows: Tensor) -> tuple[float, Tensor]:
    """Strength and scales [in] with the least error of the quantized layer; strength 0 and ones where none helps.

    ``largest``: max |x| per input channel over all frames, [in]; ``rows``: some of its inputs, [n, in].
    """
    exact = rows @ layer.weight.t()
    best, chosen, scales = float("inf"), 0.0, torch.ones_like(largest)
    weights = layer.weight.detach().abs().amax(dim=0).clamp(min=1e-12)
    for strength in (0.0, *STRENGTHS):
        if strength:
            wanted = largest.clamp(min=1e-12) ** strength / weights ** (1 - strength)
            tried = torch.exp2((wanted / wanted.median()).log2().round().clamp(-12, 12))
        else:
            tried = torch.ones_like(largest)
        error = _error(layer.weight, tried, largest, rows, exact)
        if error < best:
            best, chosen, scales = error, strength, tried
    return chosen, scales


def _error(weight: Tensor, scales: Tensor, largest: Tensor, rows: Tensor, exact: Tensor) -> float:
    step = float((largest / scales).max()) / LARGEST
    if step == 0:
        return 0.0
    activations = (rows / scales / step).round().clamp(-LARGEST, LARGEST) * step
    return float(((activations @ rounded(weight * scales).t()) - exact).double().pow(2).sum())


@torch.no_grad()
def fold(target: Smoothable, scales: Tensor) -> None:
    """Move ``scales`` [in] into the layer, in place; a second time with their reciprocals takes it back, bit by bit."""
    target.layer.weight.mul_(scales)
    for tensor in target.divided:
        tensor.div_(scales[:, None] if tensor.ndim > 1 else scales)


def fold_all(network: nn.Module, policy: QuantizationPolicy, scales: Mapping[str, Sequence[float]]) -> None:
    """Fold what was chosen, by path."""
    for target in smoothable(network, policy):
        fold(target, torch.tensor(scales[target.path]))
