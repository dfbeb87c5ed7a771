"""Exact rewrites of CREStereo, in order."""

from cdm_export.reference_model.backbones.rewrites import convex_upsample, last_mask, prepared_context
from cdm_export.reference_model.crestereo.rewrites import one_attention
from cdm_export.reference_model.rewriting import Rule

RULES: dict[str, Rule] = {
    "last_mask": last_mask,
    "one_attention": one_attention,
    "prepared_context": prepared_context,
    "convex_upsample": convex_upsample,
}
"""In order of application; independent of each other."""
