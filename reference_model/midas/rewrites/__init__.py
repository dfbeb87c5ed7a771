"""Exact rewrites that only MiDaS has use for."""

from cdm_export.reference_model.midas.rewrites import (
    branch_scale,
    class_token_readout,
    relative_attention,
    window_attention,
)
from cdm_export.reference_model.rewriting import Rule

BEIT: dict[str, Rule] = {
    "relative_attention": relative_attention,
    "branch_scale": branch_scale,
    "class_token_readout": class_token_readout,
}
"""In order of application; independent of each other."""

SWIN2: dict[str, Rule] = {"window_attention": window_attention}
