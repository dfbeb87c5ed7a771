"""Exact rewrites of RAFT-Stereo, in order."""

from cdm_export.reference_model.backbones.rewrites import (
    batch_norm,
    convex_upsample,
    correlation_lookup,
    gates,
    last_mask,
)
from cdm_export.reference_model.rewriting import Rule

RULES: dict[str, Rule] = {
    "batch_norm": batch_norm,
    "correlation_lookup": correlation_lookup,
    "last_mask": last_mask,
    "convex_upsample": convex_upsample,
    "gates": gates,
}
"""In order of application; independent of each other."""
