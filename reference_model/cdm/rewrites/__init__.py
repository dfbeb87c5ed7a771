"""Exact rewrites that only CDM has use for."""

from cdm_export.reference_model.cdm.rewrites import depth_channel_sum, fusion_projection, two_token_attention
from cdm_export.reference_model.rewriting import Rule

RULES: dict[str, Rule] = {
    "two_token_attention": two_token_attention,
    "depth_channel_sum": depth_channel_sum,
    "fusion_projection": fusion_projection,
}
"""In order of application."""

NEEDS = {"fusion_projection": ("two_token_attention",)}
"""Rules that find nothing to rewrite unless others came before; the rule's ``check`` says so."""
