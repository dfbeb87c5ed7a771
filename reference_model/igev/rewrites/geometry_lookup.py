"""Both pyramids are read between places by one gather each per level.

    sum of two samples, 0 outside   ->   (1 - f) g_k + f g_(k+1),   f = x - floor(x)

As ``correlation_lookup`` of the shared rewrites, which says why, with the volume's channels in one gather.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import as_planes
from cdm_export.reference_model.igev.layers import SampledGeometry
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class GatheredGeometry(nn.Module):
    """``SampledGeometry`` by gathers."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius

    def _window(self, rows: Tensor, middle: Tensor) -> Tensor:
        """[N, C, W] around [N, 1] -> [N, C, 2 radius + 1]."""
        offsets = torch.arange(-self.radius, self.radius + 2, dtype=middle.dtype, device=middle.device)
        width = rows.shape[-1]
        first = middle.floor()
        share = (middle - first)[:, None]
        # Far outside all places are alike; the bound keeps the integers small.
        places = first.clamp(-self.radius - 2, width + self.radius + 1) + offsets
        index = places.clamp(0, width - 1).long()[:, None].expand(-1, rows.shape[1], -1)
        found = rows.gather(2, index) * ((places + 1).clamp(0, 1) * (width - places).clamp(0, 1))[:, None]
        return found[..., :-1] * (1 - share) + found[..., 1:] * share

    def forward(self, pyramids: Sequence[tuple[Tensor, Tensor]], disparity: Tensor, start: Tensor) -> Tensor:
        """Pyramids, disparity and own columns [B, 1, h, w] -> [B, levels * (G + 1) * (2 radius + 1), h, w]."""
        moved, own = disparity.reshape(-1, 1), start.reshape(-1, 1)
        samples = []
        for level, (geometry, rows) in enumerate(pyramids):
            samples.append(self._window(geometry, moved / 2**level).flatten(1))
            samples.append(self._window(rows[:, None], (own - moved) / 2**level)[:, 0])
        return as_planes(samples, disparity)


def check(network: nn.Module) -> str | None:
    """Any look-up of a geometry's volume will do."""
    return None if modules_of(network, SampledGeometry) else "there is no look-up of a geometry's volume"


def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every look-up."""
    return Saving(replace_modules(network, SampledGeometry, lambda one: GatheredGeometry(one.radius)))
