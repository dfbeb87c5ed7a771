"""What training minimises, in float32 over all pixels: exact depth is known everywhere."""

import torch.nn.functional as F
from torch import Tensor

_LEAST = 1 / 25
"""1/m; predictions below are as wrong as this one. Nothing is so far."""
_GRADIENT = 0.5
"""Weight of the edges."""
_HOLE = 4.0
"""Weight of a pixel without a reading: filling is what has to be learnt, copying a reading is there from the start."""


def depth_loss(predicted: Tensor, target: Tensor, sensor: Tensor) -> Tensor:
    """Mean |log depth error|, plus the same of its steps between pixels at three scales (edges where edges are).

    All [B, 1, H, W] inverse depth in 1/m; the target is positive. Where the sensor has none, errors count fourfold.
    """
    error = predicted.float().clamp(min=_LEAST).log() - target.log()
    weight = 1 + (_HOLE - 1) * (sensor == 0).float()
    loss = (weight * error.abs()).sum() / weight.sum()
    for scale in range(3):
        coarse = F.avg_pool2d(error, 2**scale) if scale else error
        steps = coarse.diff(dim=-1).abs().mean() + coarse.diff(dim=-2).abs().mean()
        loss = loss + _GRADIENT / 3 * steps
    return loss


def revival(before_relu: Tensor) -> Tensor:
    """Hinge on what enters the last ReLU: where it is negative, the loss has no gradient to bring it back."""
    return F.relu(_LEAST - before_relu.float()).mean()
