"""Exact rewrites of a reference network into the fixed-size network that is exported, one rule per file.

A rule first says whether it is exact for the network at hand, and leaves it alone where it is not. Then it replaces
submodules in place and returns what that saves; it never copies all large weights. The reference is destroyed by it, so
its outputs are computed first. Here are the rules that any family may use; a family's own lie beside its network
(``Variant.rewrites``) and come first.
"""

from collections.abc import Collection, Mapping

from torch import nn

from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.rewriting import Rule, Saving, apply_rule
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import ModelContract, Size
from cdm_export.transforms import (
    convolution_before_upsample,
    explicit_attention,
    input_normalization,
    layer_scale,
    linear_layout,
    phase_convolution,
    position_embedding,
)

SHARED: dict[str, Rule] = {
    "position_embedding": position_embedding,
    "explicit_attention": explicit_attention,
    "input_normalization": input_normalization,
    "layer_scale": layer_scale,
    "convolution_before_upsample": convolution_before_upsample,
    "phase_convolution": phase_convolution,
    "linear_layout": linear_layout,
}
"""In order of application; independent of each other, but for the last, which takes the linear layers away."""


def rules_of(variant: Variant) -> dict[str, Rule]:
    """A family's own rules, then the shared ones."""
    return {**variant.rewrites(), **SHARED}


def specialize_for(
    contract: ModelContract,
    network: nn.Module,
    *,
    exclude: Collection[str] = (),
    instead: Mapping[str, Rule] | None = None,
) -> dict[str, Saving]:
    """``specialize`` with the rules of a contract's model, but those that are named in ``exclude``, for the size of its
    network. ``instead``: other rules in the place of some, by name.
    """
    rules = {**rules_of(get_variant(contract.model)), **(instead or {})}
    chosen = {name: rule for name, rule in rules.items() if name not in exclude}
    return specialize(network, contract.network, chosen)


def specialize(network: nn.Module, size: Size, rules: Mapping[str, Rule]) -> dict[str, Saving]:
    """Apply every rule that applies to a network behind its interface, for an image of ``size`` pixels.

    Returns what each rule saved, or why it was skipped. Mathematically exact: the float64 outputs before and after
    agree to rounding (tested).
    """
    return {name: apply_rule(rule, network, size) for name, rule in rules.items()}
