"""Weights of the upsampling are computed once, after the last iteration, the only one whose flow is read.

Whatever has an ``every_mask``, iterations, an ``upsample`` and an ``update_block.mask`` computes them so.
"""

from torch import nn

from cdm_export.reference_model.backbones.raft import ConvexUpsample
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


def _recurrent(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if getattr(module, "every_mask", False)]


def check(network: nn.Module) -> str | None:
    """There is a network that upsamples more often than it has to."""
    return None if _recurrent(network) else "no weights of an upsampling are computed in vain"


def apply(network: nn.Module, size: Size) -> Saving:
    """Leave the others out. Comes before the rule that replaces the upsampling."""
    macs = 0
    found = _recurrent(network)
    for raft in found:
        upsample = raft.get_submodule("upsample")
        assert isinstance(upsample, ConvexUpsample)
        pixels = (size.height // upsample.factor) * (size.width // upsample.factor)
        layers = [layer for layer in raft.get_submodule("update_block.mask").modules() if isinstance(layer, nn.Conv2d)]
        iterations = raft.iterations
        assert isinstance(iterations, int)
        macs += (iterations - 1) * pixels * sum(layer.weight.numel() for layer in layers)
        raft.every_mask = False  # type: ignore[assignment]
    return Saving(len(found), macs=macs)
