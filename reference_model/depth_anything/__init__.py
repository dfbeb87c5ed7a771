"""Depth Anything: the family's variants, how to build them, and what their tensors mean."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cdm_export.reference_model.backbones.policies import DINO_IMAGE, dino_precision, dino_quantization
from cdm_export.reference_model.config import DINO_DPT_UNUSED, ENCODERS, PATCH, ChannelOrder
from cdm_export.reference_model.depth_anything.config import KINDS, Kind, config
from cdm_export.reference_model.sections import decoder_section, encoder_section
from cdm_export.reference_model.variant import SeededRange, Variant
from cdm_export.runtimes.contract import DEFAULT_FAR, ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.graph_precision import Island, IslandKind
from cdm_export.runtimes.processing.size import network_size

if TYPE_CHECKING:
    from torch import nn

_MILLIONS = {"vits": 24.785, "vitb": 97.471, "vitl": 335.316, "vitg": 1258.132}
_CANNOT_TELL = (
    "Depth Anything V1, V2 and V2 metric have equal tensors; they differ in the blocks that are read and in what the "
    "output means, and a network of the wrong kind gives plausible, wrong depth"
)
_V1_LICENSE = "published with Apache-2.0 code, without a note of their own"
_V2_LICENSES = dict.fromkeys(ENCODERS, "CC-BY-NC-4.0: not for commercial use") | {"vits": "Apache-2.0"}
_SIZING = Sizing(rule="lower_bound", multiple=PATCH)
_LAST = "depth_head.scratch.output_conv2.2"
_ENCODERS = ("pretrained",)
_SECTIONS = (encoder_section("encoder", "pretrained"), decoder_section("decoder", "depth_head"))


def _build(kind: Kind, size: str) -> "nn.Module":
    from cdm_export.reference_model.depth_anything.network import DepthAnything

    return DepthAnything(config(kind, size))


def _fits(size: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """One encoder, and a decoder that reads tokens of its width."""
    width = ENCODERS[size].width
    return (
        shapes.get("pretrained.cls_token", ())[-1:] == (width,)
        and shapes.get("depth_head.projects.0.weight", ())[1:2] == (width,)
        and "depth_pretrained.cls_token" not in shapes
    )


def _contract(kind: Kind) -> Callable[..., ModelContract]:
    def contract(
        model: str,
        camera: Size,
        input_size: int = 518,
        channel_order: ChannelOrder = "rgb",
        max_depth: float = 6.0,
        far: float | None = None,
        batch: int = 1,
    ) -> ModelContract:
        """GraphInterface of an artifact made for ``camera``: see ``ModelContract`` for units and defaults."""
        network, content = network_size(camera, input_size, _SIZING)
        plane = (network.height, network.width)
        if kind.max_depth is None:
            output = TensorSpec(
                name="relative_inverse_depth",
                shape=(batch, 1, *plane),
                unit="no unit, >= 0, larger is nearer; scale and shift differ from image to image",
            )
        else:
            output = TensorSpec(name="metric_depth", shape=(batch, 1, *plane), unit=f"m, 0..{kind.max_depth:g}")
        return ModelContract(
            model=model,
            semantics=Semantics.RELATIVE_INVERSE_DEPTH if kind.max_depth is None else Semantics.METRIC_DEPTH,
            inputs=(
                TensorSpec(
                    name="image",
                    shape=(batch, 3, *plane),
                    unit="RGB, 0..1",
                    source="rgb",
                    processing=Processing(resize="cubic", normalization="unit"),
                ),
            ),
            outputs=(output,),
            camera=camera,
            network=network,
            content=content,
            sizing=_SIZING,
            input_size=input_size,
            channel_order=channel_order,
            output_resize=kind.output_resize,
            max_depth=max_depth,
            far=far if far is not None else kind.max_depth or DEFAULT_FAR,
        )

    return contract


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _seeded_range(kind: Kind) -> SeededRange:
    if kind.max_depth is None:
        return SeededRange(1.0, 20.0, "a relative inverse depth of 1 to 20")
    # What the sigmoid makes of rounding is relative to depth: the wider the range, the larger, with random weights.
    low, high = 0.05, 0.2
    description = f"{low * kind.max_depth:g} to {high * kind.max_depth:g} m"
    return SeededRange(_logit(low), _logit(high), description)


def _variant(kind: Kind, size: str) -> Variant:
    output = "metric depth" if kind.max_depth else "relative inverse depth"
    published = "none published" if size == "vitg" else f"{kind.published_file.format(size=size)}.pth"
    license = _V1_LICENSE if kind.last_blocks else _V2_LICENSES[size]
    return Variant(
        name=f"{kind.name}-{size}",
        family="depth-anything",
        summary=f"{kind.title}, ViT-{size[-1].upper()}/14 encoder: RGB -> {output}",
        million_parameters=_MILLIONS[size],
        weights=published if size == "vitg" else f"{published} ({license})",
        license=license,
        default_input_size=518,
        build=partial(_build, kind, size),
        fits=partial(_fits, size),
        cannot_tell=_CANNOT_TELL,
        published_files=(kind.published_file.format(size=size),),
        contract=_contract(kind),
        channel_orders=("rgb",),
        unused_parameters=DINO_DPT_UNUSED,
        last_convolution=_LAST,
        seeded_range=_seeded_range(kind),
        image=DINO_IMAGE,
        precision=dino_precision(_ENCODERS, "depth_head", (_island(kind),)),
        quantization=dino_quantization(_ENCODERS),
        sections=_SECTIONS,
        at_head_range=None if kind.max_depth is None else partial(_at_head_range, kind, size),
    )


def _at_head_range(kind: Kind, size: str, meters: float) -> Variant:
    """Weights fine-tuned with another ``--max-depth`` of the original's training script, which is the largest depth the
    sigmoid can mean; the name keeps it, so that whoever builds the network from a manifest gets the same one.
    """
    title = f"Depth Anything V2 metric, with a head for up to {meters:g} m"
    variant = _variant(replace(kind, title=title, max_depth=meters), size)
    return replace(variant, name=f"{variant.name}@{meters:g}m", weights="the user's own", at_head_range=None)


def _island(kind: Kind) -> Island:
    reason = (
        "the last sums decide the eleventh bit of the output"
        if kind.max_depth is None
        else f"meters follow: half has a step of {np.spacing(np.float16(kind.max_depth)):g} m at {kind.max_depth:g} m"
    )
    return Island(kind=IslandKind.DECLARED, module=_LAST, reason=reason, output_dtype="fp32")


VARIANTS = tuple(_variant(kind, size) for kind in KINDS for size in kind.sizes)
