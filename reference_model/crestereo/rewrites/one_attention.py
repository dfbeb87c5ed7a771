"""The coarsest grid's images attend to each other once: neither changes from one update to the next."""

from torch import nn

from cdm_export.reference_model.crestereo.config import FEATURES
from cdm_export.reference_model.crestereo.network import HEADS, CreStereo
from cdm_export.reference_model.rewriting.replace import modules_of
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size

_PER_TOKEN = 10 * FEATURES**2 + 2 * FEATURES * FEATURES // HEADS + FEATURES
"""Multiply-adds: four projections and two layers behind, the two products of linear attention, its weight."""


def check(network: nn.Module) -> str | None:
    """Any CREStereo will do."""
    return None if modules_of(network, CreStereo) else "there is no CREStereo"


def apply(network: nn.Module, size: Size) -> Saving:
    """Leave the other attentions out."""
    found = modules_of(network, CreStereo)
    macs = 0
    for cre in found.values():
        cre.every_attention = False
        pixels, times = cre.updates(size)[0]
        macs += (times - 1) * 2 * pixels * _PER_TOKEN
    return Saving(len(found), macs=macs)
