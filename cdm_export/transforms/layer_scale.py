"""LayerScale goes into the linear layer before it.

    g * (W x + b)   ->   (diag(g) W) x + g * b

In half precision this also takes a rounding of the branch away. The slots ``ls1`` and ``ls2`` stay, as identities.
"""

import torch
from torch import nn

from cdm_export.reference_model.backbones.vit import Block, LayerScale, Mlp, SwiGlu
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


@torch.no_grad()
def _fold(scale: LayerScale, linear: nn.Linear) -> None:
    # Not in place: pages of a mapped checkpoint would become memory of their own, and stay.
    linear.weight = nn.Parameter(linear.weight * scale.gamma[:, None], requires_grad=False)
    linear.bias = nn.Parameter(linear.bias * scale.gamma, requires_grad=False)


def _slots(block: Block) -> dict[str, nn.Linear | None]:
    """Slots that hold a scale, each with the linear layer before it; None where that is of no known kind."""
    mlp = block.mlp
    last = mlp.w3 if isinstance(mlp, SwiGlu) else mlp.fc2 if isinstance(mlp, Mlp) else None
    before = {"ls1": block.attn.proj, "ls2": last}
    return {slot: linear for slot, linear in before.items() if isinstance(getattr(block, slot), LayerScale)}


def check(network: nn.Module) -> str | None:
    """Every scale comes right after a linear layer with a bias."""
    found = 0
    for path, block in network.named_modules():
        for slot, linear in _slots(block).items() if isinstance(block, Block) else ():
            if linear is None:
                return f"what stands before {path}.{slot} is not known"
            if reason := mismatch(f"the layer before {path}.{slot}", linear, bias=True):
                return reason
            found += 1
    return None if found else "there is no LayerScale in a transformer block"


def apply(network: nn.Module, size: Size) -> Saving:
    """Fold both scales of every block."""
    folded = 0
    for block in network.modules():
        for slot, linear in _slots(block).items() if isinstance(block, Block) else ():
            assert linear is not None
            _fold(getattr(block, slot), linear)
            setattr(block, slot, nn.Identity())
            folded += 1
    return Saving(folded, nodes=folded)
