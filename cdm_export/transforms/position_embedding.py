"""Position embedding: interpolated per call -> a constant for the grid.

    x + interpolate(E, (rows + 0.1)/37, (columns + 0.1)/37)   ->   x + E'

E' is computed once by the original call, offset included. Exporters and runtimes read a bicubic Resize differently
(OpenVINO's differs by 1.6e-3 of depth here; see also pytorch/pytorch#177138), so none is left in the graph.
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.vit import TRAINED_GRID, DinoV2, InterpolatedPosition, patch_grid
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class FixedPosition(nn.Module):
    """The embedding is already made for one grid."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.grid = (rows, columns)

    def forward(self, embedding: Tensor, rows: int, columns: int) -> Tensor:
        """Returns ``embedding``; raises ValueError for another grid than the one it was made for."""
        if (rows, columns) != self.grid:
            raise ValueError(f"position embedding was folded for {self.grid} patches, got {(rows, columns)}")
        return embedding


def check(network: nn.Module) -> str | None:
    """Every encoder has to interpolate its embedding as the original does."""
    encoders = {path: module for path, module in network.named_modules() if isinstance(module, DinoV2)}
    for path, encoder in encoders.items():
        if type(encoder.position) is not InterpolatedPosition:
            return f"{path} does not interpolate its position embedding: it is {type(encoder.position).__name__}"
    return None if encoders else "there is no DINOv2 encoder"


@torch.no_grad()
def apply(network: nn.Module, size: Size) -> Saving:
    """Fold the embedding of every encoder."""
    rows, columns = patch_grid(size)
    encoders = [module for module in network.modules() if isinstance(module, DinoV2)]
    for encoder in encoders:
        folded = encoder.position(encoder.pos_embed, rows, columns).detach().clone()
        encoder.pos_embed = nn.Parameter(folded, requires_grad=False)
        encoder.position = FixedPosition(rows, columns)  # type: ignore[assignment]
    interpolated = rows != TRAINED_GRID or columns != TRAINED_GRID
    return Saving(len(encoders), nodes=8 * len(encoders) if interpolated else 0)
