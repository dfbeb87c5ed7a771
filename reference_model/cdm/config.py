"""Sizes of the CDM variants: four of the reference implementation (its ``infer.py`` and ``dpt.py``), and a tiny one.

``vitt`` is ours: the same architecture, small enough to be trained here and shipped in the package.
"""

from dataclasses import dataclass

from cdm_export.reference_model.config import DECODERS, ENCODERS, DptConfig, VitConfig


@dataclass(frozen=True)
class CdmConfig:
    """Size of a CDM: two equal encoders and a decoder."""

    encoder: VitConfig
    """Each of the two encoders."""
    decoder: DptConfig
    """The DPT decoder; it reads 2C channels per token."""


CONFIGS = {
    "vitt": CdmConfig(VitConfig(192, 12, 3, (2, 5, 8, 11)), DptConfig(32, (24, 48, 96, 192))),
    **{size: CdmConfig(ENCODERS[size], DECODERS[size]) for size in ENCODERS},
}
