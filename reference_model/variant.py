"""One entry of the registry: a model that can be built, loaded and exported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reference_model.config import ChannelOrder
from runtimes.contract import ModelContract
from runtimes.typed_graph import Island

if TYPE_CHECKING:
    from torch import nn


NETWORK = "network"
"""Attribute by which every boundary module (``Variant.on_boundary``) holds the network itself."""


@dataclass(frozen=True)
class Variant:
    """Everything the toolkit asks of a model; PyTorch is imported only by ``build`` and ``on_boundary``."""

    name: str
    """Name on the command line, ``family-size``."""
    family: str
    """Family name."""
    summary: str
    """One line for ``cdm-export models``."""
    million_parameters: float
    """Parameters / 1e6, unused ones included."""
    weights: str
    """Where weights can be had and under which licence; ``none published`` otherwise."""
    licence: str
    """Note on the weights' licence that travels in the manifest; may be empty."""
    build: "Callable[[], nn.Module]"
    """The network with the checkpoint's own state dict, freshly initialised."""
    on_boundary: "Callable[[nn.Module, ChannelOrder], nn.Module]"
    """The network behind the graph boundary that artefacts have."""
    detect: Callable[[Mapping[str, tuple[int, ...]]], str | None]
    """Variant of this family that a state dict's shapes belong to; None when of no variant."""
    contract: Callable[..., ModelContract]
    """Contract for a camera size: ``contract(model, camera, input_size, channel_order, max_depth, far)``."""
    default_input_size: int
    """Lower bound of the network's sides, pixels, that its weights were trained for."""
    unused_parameters: tuple[str, ...]
    """Substrings of parameter names that the forward never reads; a checkpoint may lack them."""
    last_convolution: str
    """Module whose scale sets the output's range (rescaled for seeded random weights)."""
    islands: tuple[Island, ...]
    """Modules that stay FP32 in a graph of lower precision, whatever the ranges."""
