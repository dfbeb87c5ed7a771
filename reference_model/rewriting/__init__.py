"""What exact rewrites are made of: a rule, what it saved, conditions under which it is exact, replacing modules.

Rules that any family may use live in ``cdm_export/transforms``, a family's own beside its network.
"""

from typing import Protocol

from torch import nn

from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size

__all__ = ["Rule", "Saving", "apply_rule"]


class Rule(Protocol):
    """One exact rewrite; every module that has these two functions is one."""

    def check(self, network: nn.Module, /) -> str | None:
        """Why the rule does not apply to a network: nothing to rewrite, or not exact for it. None when it does."""

    def apply(self, network: nn.Module, size: Size, /) -> Saving:
        """Rewrite a network that ``check`` accepts, in place, for an image of ``size`` pixels."""


def apply_rule(rule: Rule, network: nn.Module, size: Size) -> Saving:
    """One rule, unless its ``check`` speaks against it; then the network stays as it is, and the result says why."""
    if reason := rule.check(network):
        return Saving(0, skipped=reason)
    return rule.apply(network, size)
