"""Exact rewrites of a reference network into the fixed-size network that is exported, one rule per file.

A rule replaces submodules in place and returns how many it replaced; it never copies the large weights. The reference
is destroyed by it, so its outputs are computed first.
"""

from torch import nn

from cdm_export.transforms import (
    depth_channel_sum,
    explicit_attention,
    input_normalisation,
    linear_layout,
    position_embedding,
    two_token_attention,
)

RULES = {
    "position_embedding": position_embedding.apply,
    "explicit_attention": explicit_attention.apply,
    "two_token_attention": two_token_attention.apply,
    "depth_channel_sum": depth_channel_sum.apply,
    "input_normalisation": input_normalisation.apply,
    "linear_layout": linear_layout.apply,
}
"""In order of application; independent of each other, but for the last, which takes the linear layers away."""


def specialise(network: nn.Module, rows: int, columns: int) -> dict[str, int]:
    """Apply every rule to a network behind its boundary, for a patch grid of ``rows`` x ``columns``.

    Returns how many modules each rule replaced. Mathematically exact: the float64 outputs before and after agree to
    rounding (tested).
    """
    return {name: apply(network, rows, columns) for name, apply in RULES.items()}
