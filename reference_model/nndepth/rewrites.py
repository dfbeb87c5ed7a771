"""Exact rewrites of nndepth's networks, in order."""

from cdm_export.reference_model.backbones.rewrites import (
    batch_norm,
    convex_upsample,
    correlation_lookup,
    last_mask,
    prepared_context,
)
from cdm_export.reference_model.rewriting import Rule

RULES: dict[str, Rule] = {
    "batch_norm": batch_norm,
    "correlation_lookup": correlation_lookup,
    "last_mask": last_mask,
    "convex_upsample": convex_upsample,
    "prepared_context": prepared_context,
}
"""In order of application; independent of each other."""
