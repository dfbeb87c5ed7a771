"""LayerScale goes into the linear layer before it.

    g * (W x + b)   ->   (diag(g) W) x + g * b

In half precision this also takes a rounding of the branch away. The slots ``ls1`` and ``ls2`` stay, as identities.
"""

import torch
from torch import nn

from cdm_export.transforms.saving import Saving
from reference_model.vit import Block, LayerScale, SwiGlu


@torch.no_grad()
def _fold(scale: LayerScale, linear: nn.Linear) -> None:
    # Not in place: pages of a mapped checkpoint would become memory of their own, and stay.
    linear.weight = nn.Parameter(linear.weight * scale.gamma[:, None], requires_grad=False)
    linear.bias = nn.Parameter(linear.bias * scale.gamma, requires_grad=False)


def apply(network: nn.Module, rows: int, columns: int) -> Saving:
    """Fold both scales of every block."""
    folded = 0
    for block in network.modules():
        if not isinstance(block, Block):
            continue
        last = block.mlp.w3 if isinstance(block.mlp, SwiGlu) else block.mlp.fc2
        for slot, linear in (("ls1", block.attn.proj), ("ls2", last)):
            scale = getattr(block, slot)
            if isinstance(scale, LayerScale):
                _fold(scale, linear)
                setattr(block, slot, nn.Identity())
                folded += 1
    return Saving(folded, nodes=folded)
