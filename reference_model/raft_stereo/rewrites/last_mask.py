"""Weights of the upsampling are computed once, after the last iteration, the only one whose flow is upsampled."""

from torch import nn

from cdm_export.reference_model.raft_stereo.network import RaftStereo
from cdm_export.reference_model.rewriting.replace import modules_of
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


def check(network: nn.Module) -> str | None:
    """Any RAFT-Stereo will do."""
    return None if modules_of(network, RaftStereo) else "there is no RAFT-Stereo"


def apply(network: nn.Module, size: Size) -> Saving:
    """Leave the others out."""
    macs = 0
    found = modules_of(network, RaftStereo)
    for raft in found.values():
        raft.every_mask = False
        pixels = (size.height >> raft.config.downsample) * (size.width >> raft.config.downsample)
        weights = sum(part.weight.numel() for part in raft.update_block.mask if isinstance(part, nn.Conv2d))
        macs += (raft.iterations - 1) * pixels * weights
    return Saving(len(found), macs=macs)
