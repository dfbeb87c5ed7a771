"""Exact rewrites of a reference network into the fixed-size network that is exported, one rule per file.

A rule replaces submodules in place and returns what that saves; it never copies all large weights. The reference is
destroyed by it, so its outputs are computed first.
"""

from collections.abc import Callable, Mapping

from torch import nn

from cdm_export.transforms import (
    convolution_before_upsample,
    depth_channel_sum,
    explicit_attention,
    fusion_projection,
    input_normalisation,
    layer_scale,
    linear_layout,
    phase_convolution,
    position_embedding,
    two_token_attention,
)
from cdm_export.transforms.saving import Saving
from reference_model.config import PATCH
from runtimes.contract import ModelContract

Rule = Callable[[nn.Module, int, int], Saving]
"""``apply(network, rows, columns)``."""


def _explicit_attention(network: nn.Module, rows: int, columns: int) -> Saving:
    modules = explicit_attention.apply(network, rows, columns)
    return Saving(modules, nodes=-2 * modules)  # the query's Mul goes, three Gather become Slice and Squeeze


RULES: dict[str, Rule] = {
    "position_embedding": position_embedding.apply,
    "explicit_attention": _explicit_attention,
    "two_token_attention": two_token_attention.apply,
    "depth_channel_sum": depth_channel_sum.apply,
    "input_normalisation": input_normalisation.apply,
    "layer_scale": layer_scale.apply,
    "fusion_projection": fusion_projection.apply,
    "convolution_before_upsample": convolution_before_upsample.apply,
    "phase_convolution": phase_convolution.apply,
    "linear_layout": linear_layout.apply,
}
"""In order of application; independent of each other, but for ``NEEDS`` and the last, which takes the linear layers
away."""

NEEDS = {"fusion_projection": ("two_token_attention",)}
"""Rules that find nothing to rewrite unless others came before."""


def specialise_for(contract: ModelContract, network: nn.Module, rules: Mapping[str, Rule] = RULES) -> dict[str, Saving]:
    """``specialise`` for the patch grid of a contract's network."""
    return specialise(network, contract.network.height // PATCH, contract.network.width // PATCH, rules)


def specialise(network: nn.Module, rows: int, columns: int, rules: Mapping[str, Rule] = RULES) -> dict[str, Saving]:
    """Apply every rule to a network behind its boundary, for a patch grid of ``rows`` x ``columns``.

    Returns what each rule saved. Mathematically exact: the float64 outputs before and after agree to rounding (tested).
    """
    return {name: apply(network, rows, columns) for name, apply in rules.items()}
