"""What a rule did to a network, as it reports it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Saving:
    """Work that one rule removed from a network, for one image at the grid it was applied for."""

    modules: int
    """Modules replaced."""
    macs: int = 0
    """Multiply-adds of products and convolutions that are no longer done."""
    nodes: int = 0
    """Nodes that the exported ONNX graph has fewer; negative where it has more."""
    skipped: str = ""
    """Why the rule does not apply to the network, which it left alone; empty where it was applied."""
