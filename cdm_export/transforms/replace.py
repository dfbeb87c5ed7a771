"""Replace submodules of one type, wherever they are."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def replace_modules(network: nn.Module, kind: type[M], make: Callable[[M], nn.Module]) -> int:
    """Replace every submodule of type ``kind`` by ``make(submodule)``, in place. Returns how many."""
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) is kind
    ]
    for parent, name, child in found:
        setattr(parent, name, make(child))
    return len(found)
