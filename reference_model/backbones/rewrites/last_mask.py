"""Weights of an upsampling are computed once per grid, after its last update, the only one whose flow is read.

Whatever has an ``every_mask``, a ``mask_path`` and ``updates`` computes them so.
"""

from typing import Protocol, runtime_checkable

from torch import nn

from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


@runtime_checkable
class Recurrent(Protocol):
    """What rewrites ask of a network that updates a flow again and again."""

    every_mask: bool
    """Whether every update computes weights of an upsampling, although only a grid's last one is read."""
    mask_path: str
    """Of the layers that compute them in every update."""

    def updates(self, size: Size) -> list[tuple[int, int]]:
        """Pixels of every grid that is updated, and how often it is, for images of ``size`` pixels."""


def updates(network: nn.Module, size: Size) -> list[tuple[int, int]]:
    """Of every recurrent network in ``network``."""
    return [one for module in network.modules() if isinstance(module, Recurrent) for one in module.updates(size)]


def check(network: nn.Module) -> str | None:
    """There is a network that computes weights in vain."""
    in_vain = any(isinstance(module, Recurrent) and module.every_mask for module in network.modules())
    return None if in_vain else "no weights of an upsampling are computed in vain"


def apply(network: nn.Module, size: Size) -> Saving:
    """Leave the others out."""
    found = macs = 0
    for module in network.modules():
        if isinstance(module, Recurrent) and module.every_mask:
            assert isinstance(module, nn.Module)
            layers = module.get_submodule(module.mask_path).modules()
            weights = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))
            macs += sum(pixels * (times - 1) for pixels, times in module.updates(size)) * weights
            module.every_mask = False
            found += 1
    return Saving(found, macs=macs)
