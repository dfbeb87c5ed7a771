"""One entry of the registry: a model that can be built, loaded and exported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.policies import PrecisionPolicy, QuantizationPolicy
from cdm_export.reference_model.sections import Section
from cdm_export.runtimes.contract import ModelContract

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule


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
class ImageStatistics:
    """What a network's images are normalized with; the interface of every artifact is RGB 0..1."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Per plane, of 0..1."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Per plane, of 0..1."""
    projection: str = ""
    """Path of the convolution that alone reads every image, and into which the normalization can be folded where it
    has no padding; empty when there is none."""


IMAGENET = ImageStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Variant:
    """Everything the toolkit asks of a model; PyTorch is imported only by ``build``, ``exportable``, ``rewrites`` and
    ``seed``. What has a default is for speed, accuracy of reduced precision, or better words: a network without it is
    exported all the same.
    """

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
    fits: Callable[[Mapping[str, tuple[int, ...]]], bool]
    """Whether a state dict's shapes are those of this variant."""
    contract: Callable[..., ModelContract]
    """Contract for a camera size: ``contract(model, camera, input_size, channel_order, max_depth, far)``; ``far`` None
    for the variant's own. Its inputs stand in the order of the network's arguments."""
    default_input_size: int
    """Lower bound of the network's sides, pixels, that its weights were trained for."""
    channel_orders: tuple[ChannelOrder, ...] = ("rgb",)
    """Plane orders its weights may be run with, the usual one first."""
    preprocessings: tuple[str, ...] = ()
    """Programs whose processing of images can be had, the usual one first, where there is more than one: names that
    ``contract`` takes as ``preprocessing``, with ``aspect`` for one that can keep the camera's or make a square."""
    images: int = 1
    """How many of the network's arguments, the first ones, are images to be normalized."""
    image: ImageStatistics = field(default_factory=ImageStatistics)
    """What they are normalized with."""
    output_scale: float = 1.0
    """What the network's output is multiplied with to be what the contract says."""
    iterations: int | None = None
    """Updates of a recurrent network; None for any other."""
    cannot_tell: str = ""
    """What the shapes leave open, as a sentence; empty when they say it all. If not, the user must name the variant."""
    published_files: tuple[str, ...] = ()
    """Stems of the file names under which weights of this variant were published; they settle what shapes leave open
    only to contradict the user."""
    unused_parameters: tuple[str, ...] = ()
    """Substrings of parameter names that the forward never reads; a checkpoint may lack them."""
    recomputed: tuple[str, ...] = ()
    """Ends of names of entries that files carry and that follow from sizes: the network has none of them."""
    rewrites: "Callable[[], Mapping[str, Rule]]" = dict
    """The family's own exact rewrites, in order; they come before those that any family may use."""
    precision: PrecisionPolicy = field(default_factory=PrecisionPolicy)
    """What stays FP32 beside what measured ranges decide."""
    quantization: QuantizationPolicy = field(default_factory=QuantizationPolicy)
    """What 8-bit integers are kept away from, and what stands or falls together."""
    sections: tuple[Section, ...] = ()
    """What a bisect looks at, in network order; none: the network's children and what is called in them."""
    last_convolution: str = ""
    """Module whose scale sets the output's range; empty when the seeded weights' own range has to do."""
    seeded_range: SeededRange | None = None
    """What it is rescaled to for seeded weights; None likewise."""
    seed: "Callable[[nn.Module, torch.Generator], None] | None" = None
    """Fills a network with seeded weights; None for the rule that goes by shapes (``random_weights.py``)."""
    at_head_range: "Callable[[float], Variant] | None" = None
    """The same model with a head trained for another range, meters; None for one without such a head. Its name is the
    registry's with ``@METERSm`` behind it (``registry.get_variant``)."""

    at_iterations: "Callable[[int], Variant] | None" = None
    """The same model with another number of iterations; None for one that has none. Its name is the registry's with
    ``@Nit`` behind it (``registry.get_variant``)."""

    def exportable(self, network: "nn.Module", order: ChannelOrder) -> "nn.Module":
        """The network behind the graph interface that artifacts have."""
        from cdm_export.reference_model.exportable import ExportableNetwork

        return ExportableNetwork(network, order, self.image, self.images, self.output_scale)
