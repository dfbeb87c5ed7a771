"""What Depth Anything comes as: V1 and V2, relative and metric, in the sizes of DINOv2.

All have the same tensors, size for size. They differ in the blocks the decoder reads, in what follows its last
convolution, and in how the reference implementation resizes the result.
"""

from dataclasses import dataclass, replace
from typing import Literal

from cdm_export.reference_model.config import DECODERS, ENCODERS, DptConfig, VitConfig

LEVELS = 4
"""Blocks that the decoder reads."""


@dataclass(frozen=True)
class Kind:
    """One set of published weights, in several sizes."""

    name: str
    """Beginning of the registry names."""
    title: str
    """In words."""
    sizes: tuple[str, ...]
    """Sizes it is defined for."""
    last_blocks: bool
    """Whether the decoder reads the last four blocks (V1) or blocks spread over the encoder."""
    max_depth: float | None
    """Meters that the largest output means; None for relative inverse depth, which has no unit."""
    output_resize: Literal["bilinear", "bilinear_corners"]
    """How the reference implementation resizes the output to the image."""
    published_file: str
    """Stem of the published files' names, with the size left open."""


@dataclass(frozen=True)
class DepthAnythingConfig:
    """Size and meaning of one network."""

    encoder: VitConfig
    """The encoder, with its hooks."""
    decoder: DptConfig
    """The DPT decoder; it reads C channels per token."""
    max_depth: float | None
    """Meters that an output of 1 means; None for relative inverse depth."""


KINDS = (
    Kind("depth-anything-v1", "Depth Anything V1", ("vits", "vitb", "vitl"), True, None, "bilinear",
         "depth_anything_{size}14"),
    Kind("depth-anything-v2", "Depth Anything V2", ("vits", "vitb", "vitl", "vitg"), False, None, "bilinear_corners",
         "depth_anything_v2_{size}"),
    Kind("depth-anything-v2-metric-indoor", "Depth Anything V2 metric, indoor (Hypersim, up to 20 m)",
         ("vits", "vitb", "vitl"), False, 20.0, "bilinear_corners", "depth_anything_v2_metric_hypersim_{size}"),
    Kind("depth-anything-v2-metric-outdoor", "Depth Anything V2 metric, outdoor (Virtual KITTI 2, up to 80 m)",
         ("vits", "vitb", "vitl"), False, 80.0, "bilinear_corners", "depth_anything_v2_metric_vkitti_{size}"),
)  # fmt: skip


def config(kind: Kind, size: str) -> DepthAnythingConfig:
    """Network of one kind and size."""
    encoder, decoder = ENCODERS[size], DECODERS[size]
    if kind.last_blocks:
        encoder = replace(encoder, hooks=tuple(range(encoder.depth - LEVELS, encoder.depth)))
    if kind.max_depth is not None:
        decoder = replace(decoder, last="sigmoid")
    return DepthAnythingConfig(encoder, decoder, kind.max_depth)
