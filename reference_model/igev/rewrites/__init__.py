"""Exact rewrites of IGEV-Stereo, in order."""

from cdm_export.reference_model.backbones.rewrites import batch_norm, gates, last_mask
from cdm_export.reference_model.igev.rewrites import context_upsample, geometry_lookup
from cdm_export.reference_model.rewriting import Rule

RULES: dict[str, Rule] = {
    "batch_norm": batch_norm,
    "geometry_lookup": geometry_lookup,
    "last_mask": last_mask,
    "context_upsample": context_upsample,
    "gates": gates,
}
"""In order of application; independent of each other."""
