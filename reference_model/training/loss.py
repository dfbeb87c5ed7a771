"""What training minimizes, in float32 over all pixels: exact depth is known everywhere."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1 / 25
"""1/m; predictions below are as wrong as this one. Nothing is so far."""
_GRADIENT = 0.5
"""Weight of the edges."""
_HOLE = 4.0
"""Weight of a pixel without a reading: filling is what has to be learned, copying a reading is there from the start."""


_FAR = 1.0
"""Of the logarithm: beyond e times too far the relative error goes on as a line, so that no gradient explodes."""


def depth_loss(predicted: Tensor, target: Tensor, sensor: Tensor) -> Tensor:
    """Mean |log depth error| of readings and |relative depth error| of holes, plus steps of the log error between
    pixels at three scales (edges where edges are).

    A hole beside an object may be the object or what is behind it. To the logarithm every depth between the two is as
    good; the relative error decides for one of them, and for the near one unless the far one is much likelier.

    All [B, 1, H, W] inverse depth in 1/m; the target is positive. Where the sensor has none, errors count fourfold.
    """
    error = predicted.float().clamp(min=_LEAST).log() - target.log()
    hole = sensor == 0
    weight = 1 + (_HOLE - 1) * hole.float()
    loss = (weight * torch.where(hole, _relative(error), error.abs())).sum() / weight.sum()
    for scale in range(3):
        coarse = F.avg_pool2d(error, 2**scale) if scale else error
        steps = coarse.diff(dim=-1).abs().mean() + coarse.diff(dim=-2).abs().mean()
        loss = loss + _GRADIENT / 3 * steps
    return loss


def _relative(error: Tensor) -> Tensor:
    """|depth - truth| / truth from log(truth / depth)."""
    too_far = -error
    return torch.expm1(too_far.clamp(max=_FAR)).abs() + math.exp(_FAR) * F.relu(too_far - _FAR)


def revival(before_relu: Tensor) -> Tensor:
    """Hinge on what enters the last ReLU: where it is negative, the loss has no gradient to bring it back."""
    return F.relu(_LEAST - before_relu.float()).mean()
