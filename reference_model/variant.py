"""One entry of the registry: a model that can be built, loaded and exported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.sections import Section
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.graph_precision import Island

if TYPE_CHECKING:
    from torch import nn


NETWORK = "network"
"""Attribute by which every exportable module (``Variant.exportable``) holds the network itself."""


@dataclass(frozen=True)
class SeededRange:
    """Where seeded random weights are brought to, so that their output is as large as a trained network's."""

    low: float
    """1st percentile of the last convolution's output."""
    high: float
    """99th percentile."""
    description: str
    """What that makes of the network's output, e.g. ``0.5 to 4 m``."""


@dataclass(frozen=True)
class Variant:
    """Everything the toolkit asks of a model; PyTorch is imported only by ``build`` and ``exportable``."""

    name: str
    """Name on the command line, ``family-size``."""
    family: str
    """Family name."""
    summary: str
    """One line for ``cdm-export models``."""
    million_parameters: float
    """Parameters / 1e6, unused ones included."""
    weights: str
    """Where weights can be had and under which license; ``none published`` otherwise."""
    license: str
    """Note on the weights' license that travels in the manifest; may be empty."""
    build: "Callable[[], nn.Module]"
    """The network with the checkpoint's own state dict, freshly initialized."""
    exportable: "Callable[[nn.Module, ChannelOrder], nn.Module]"
    """The network behind the graph interface that artifacts have."""
    fits: Callable[[Mapping[str, tuple[int, ...]]], bool]
    """Whether a state dict's shapes are those of this variant."""
    cannot_tell: str
    """What the shapes leave open, as a sentence; empty when they say it all. If not, the user must name the variant."""
    published_files: tuple[str, ...]
    """Stems of the file names under which weights of this variant were published; they settle what shapes leave open
    only to contradict the user."""
    contract: Callable[..., ModelContract]
    """Contract for a camera size: ``contract(model, camera, input_size, channel_order, max_depth, far)``; ``far`` None
    for the variant's own."""
    channel_orders: tuple[ChannelOrder, ...]
    """Plane orders its weights may be run with, the usual one first."""
    default_input_size: int
    """Lower bound of the network's sides, pixels, that its weights were trained for."""
    unused_parameters: tuple[str, ...]
    """Substrings of parameter names that the forward never reads; a checkpoint may lack them."""
    last_convolution: str
    """Module whose scale sets the output's range (rescaled for seeded random weights)."""
    seeded_range: SeededRange
    """What it is rescaled to."""
    islands: tuple[Island, ...]
    """Modules that stay FP32 in a graph of lower precision, whatever the ranges."""
    sections: tuple[Section, ...]
    """What a bisect looks at, in network order."""
    at_head_range: "Callable[[float], Variant] | None" = None
    """The same model with a head trained for another range, meters; None for one without such a head. Its name is the
    registry's with ``@METERSm`` behind it (``registry.get_variant``)."""


def exportable(network: "nn.Module", order: ChannelOrder) -> "nn.Module":
    """``Variant.exportable`` of the families whose image is normalized with ImageNet's statistics."""
    from cdm_export.reference_model.exportable import ExportableNetwork

    return ExportableNetwork(network, order)
