"""Exact rewrites of a reference network into the fixed-size network that is exported, one rule per file.

A rule first says whether it is exact for the network at hand, and leaves it alone where it is not. Then it replaces
submodules in place and returns what that saves; it never copies all large weights. The reference is destroyed by it, so
its outputs are computed first.
"""

from collections.abc import Mapping

from torch import nn

from cdm_export.reference_model.config import PATCH
from cdm_export.reference_model.rewriting import Rule, Saving, apply_rule
from cdm_export.runtimes.contract import ModelContract
from cdm_export.transforms import (
    convolution_before_upsample,
    depth_channel_sum,
    explicit_attention,
    fusion_projection,
    layer_scale,
    linear_layout,
    phase_convolution,
    position_embedding,
    two_token_attention,
)
from cdm_export.transforms import input_normalization as input_normalization

RULES: dict[str, Rule] = {
    "position_embedding": position_embedding,
    "explicit_attention": explicit_attention,
    "two_token_attention": two_token_attention,
    "depth_channel_sum": depth_channel_sum,
    "input_normalization": input_normalization,
    "layer_scale": layer_scale,
    "fusion_projection": fusion_projection,
    "convolution_before_upsample": convolution_before_upsample,
    "phase_convolution": phase_convolution,
    "linear_layout": linear_layout,
}
"""In order of application; independent of each other, but for ``NEEDS`` and the last, which takes the linear layers
away."""

NEEDS = {"fusion_projection": ("two_token_attention",)}
"""Rules that find nothing to rewrite unless others came before; the rule's ``check`` says so."""


def specialize_for(contract: ModelContract, network: nn.Module, rules: Mapping[str, Rule] = RULES) -> dict[str, Saving]:
    """``specialize`` for the patch grid of a contract's network."""
    return specialize(network, contract.network.height // PATCH, contract.network.width // PATCH, rules)


def specialize(network: nn.Module, rows: int, columns: int, rules: Mapping[str, Rule] = RULES) -> dict[str, Saving]:
    """Apply every rule that applies to a network behind its interface, for a patch grid of ``rows`` x ``columns``.

    Returns what each rule saved, or why it was skipped. Mathematically exact: the float64 outputs before and after
    agree to rounding (tested).
    """
    return {name: apply_rule(rule, network, rows, columns) for name, rule in rules.items()}
