"""Where weights come from: a checkpoint, or a seed. One record for every process of an export."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator

from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.bundle import Provenance, RandomWeights
from cdm_export.runtimes.contract import ModelContract, Record
from cdm_export.runtimes.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn


class WeightsSource(Record):
    """Exactly one of a checkpoint, a seed, and the record of seeded weights that were made already."""

    checkpoint: str | None = None
    """Checkpoint file, ``FILE#KEY`` for one of its sets of weights."""
    seed: int | None = None
    """Of random weights; what else they take is found when they are made."""
    seeded: RandomWeights | None = None
    """How to make seeded weights again."""
    sha256: str | None = None
    """Of the checkpoint file, once it was read; another content is refused from then on."""

    @model_validator(mode="after")
    def _one(self) -> "WeightsSource":
        given = [name for name in ("checkpoint", "seed", "seeded") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"weights come from one of checkpoint, seed, seeded; given: {', '.join(given) or 'none'}")
        return self

    def made(self, provenance: Provenance) -> "WeightsSource":
        """The same weights for whoever comes after the process that made them first."""
        if provenance.random_weights is not None:
            return WeightsSource(seeded=provenance.random_weights)
        return self.model_copy(update={"sha256": provenance.sha256})

    def exportable(self, contract: ModelContract) -> "nn.Module":
        """The network behind its interface, in evaluation mode.

        Raises CheckpointError for a file that cannot be used, or that is not the one of before.
        """
        from cdm_export.reference_model.checkpoint import load_network
        from cdm_export.reference_model.random_weights import rebuild

        variant = get_variant(contract.model)
        if self.seeded is not None:
            network = rebuild(variant, self.seeded)
        else:
            assert self.checkpoint is not None, "a seed alone is made by whoever has the frame it is calibrated on"
            network, checkpoint, _ = load_network(Path(self.checkpoint), variant)
            if self.sha256 is not None and checkpoint.sha256 != self.sha256:
                raise CheckpointError(
                    f"{self.checkpoint} was changed while it was exported: sha256 is {checkpoint.sha256[:12]}…, it was "
                    f"{self.sha256[:12]}…",
                    "Export again, from a file that nobody writes.",
                )
        return variant.exportable(network, contract.channel_order).eval()
