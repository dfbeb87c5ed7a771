"""Sizes of the CDM variants: four of the reference implementation (its ``infer.py`` and ``dpt.py``), and a tiny one.

``vitt`` is ours: the same architecture, small enough to be trained here and shipped in the package.
"""

from dataclasses import dataclass

from reference_model.config import DptConfig, VitConfig


@dataclass(frozen=True)
class CdmConfig:
    """Size of a CDM: two equal encoders and a decoder."""

    encoder: VitConfig
    """Each of the two encoders."""
    decoder: DptConfig
    """The DPT decoder; it reads 2C channels per token."""


CONFIGS = {
    "vitt": CdmConfig(VitConfig(192, 12, 3, (2, 5, 8, 11)), DptConfig(32, (24, 48, 96, 192))),
    "vits": CdmConfig(VitConfig(384, 12, 6, (2, 5, 8, 11)), DptConfig(64, (48, 96, 192, 384))),
    "vitb": CdmConfig(VitConfig(768, 12, 12, (2, 5, 8, 11)), DptConfig(128, (96, 192, 384, 768))),
    "vitl": CdmConfig(VitConfig(1024, 24, 16, (4, 11, 17, 23)), DptConfig(256, (256, 512, 1024, 1024))),
    "vitg": CdmConfig(VitConfig(1536, 40, 24, (9, 19, 29, 39), "swiglu"), DptConfig(384, (1536, 1536, 1536, 1536))),
}
