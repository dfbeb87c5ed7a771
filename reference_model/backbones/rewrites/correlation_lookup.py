"""Correlations are read between columns by one gather per level.

    sum of two samples, 0 or the border outside   ->   (1 - f) g_k + f g_(k+1),   f = x - floor(x)

The columns of a window are whole pixels apart, so that all share one fraction f, and 2 r + 2 numbers g make 2 r + 1
samples. Image sampling of rows is slow in every runtime, wrong in some releases of TensorRT (NVIDIA/TensorRT#4813), and
has a rank that others do not take; delete this rule when no supported runtime has these faults. Bounds are numbers, not
conditions: coremltools 9.0 has no ``&``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import ClampedLookup, SampledLookup, as_planes
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class GatheredLookup(nn.Module):
    """Correlations around a place."""

    def __init__(self, radius: int, *, zero_outside: bool) -> None:
        super().__init__()
        self.radius = radius
        self.zero_outside = zero_outside

    def forward(self, pyramid: Sequence[Tensor], place: Tensor) -> Tensor:
        """Rows per level, and columns [B, 1, h, w] -> [B, levels * (2 radius + 1), h, w]."""
        offsets = torch.arange(-self.radius, self.radius + 2, dtype=place.dtype, device=place.device)
        samples = []
        for level, rows in enumerate(pyramid):
            width = rows.shape[1]
            column = place.reshape(-1, 1) / 2**level
            first = column.floor()
            share = column - first
            # Far outside all columns are alike; the bound keeps the integers small.
            places = first.clamp(-self.radius - 2, width + self.radius + 1) + offsets
            found = rows.gather(1, places.clamp(0, width - 1).long())
            if self.zero_outside:
                found = found * ((places + 1).clamp(0, 1) * (width - places).clamp(0, 1))
            samples.append(found[:, :-1] * (1 - share) + found[:, 1:] * share)
        return as_planes(samples, place)


def check(network: nn.Module) -> str | None:
    """Any look-up of correlations will do."""
    found = {**modules_of(network, SampledLookup), **modules_of(network, ClampedLookup)}
    return None if found else "there is no look-up of correlations"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every look-up."""
    sampled = replace_modules(network, SampledLookup, lambda one: GatheredLookup(one.radius, zero_outside=True))
    clamped = replace_modules(network, ClampedLookup, lambda one: GatheredLookup(one.radius, zero_outside=False))
    return Saving(sampled + clamped)
