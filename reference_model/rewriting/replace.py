"""Find or replace submodules of one type, wherever they are."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def modules_of(network: nn.Module, kind: type[M]) -> dict[str, M]:
    """Every submodule of type ``kind`` and of no subclass, by path: those that ``replace_modules`` would replace."""
    return {path: module for path, module in network.named_modules() if path and type(module) is kind}


def replace_modules(network: nn.Module, kind: type[M], make: Callable[[M], nn.Module]) -> int:
    """Replace every submodule of type ``kind`` by ``make(submodule)``, in place; one that stands in several places is
    made once. Returns how many were made.
    """
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) is kind
    ]
    made: dict[M, nn.Module] = {}
    for parent, name, child in found:
        if child not in made:
            made[child] = make(child)
        setattr(parent, name, made[child])
    return len(made)
