"""CDM: the family's variants, how to build them, and what their tensors mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cdm_export.reference_model.backbones.policies import DINO_IMAGE, dino_precision, dino_quantization
from cdm_export.reference_model.cdm.config import CONFIGS
from cdm_export.reference_model.config import DINO_DPT_UNUSED, PATCH, ChannelOrder
from cdm_export.reference_model.sections import decoder_section, encoder_section
from cdm_export.reference_model.variant import SeededRange, Variant
from cdm_export.runtimes.contract import DEFAULT_FAR, ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.graph_precision import Island, IslandKind
from cdm_export.runtimes.processing.size import network_size

if TYPE_CHECKING:
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

_MILLIONS = {"vitt": 12.787, "vits": 49.484, "vitb": 194.607, "vitl": 659.361, "vitg": 2441.823}
_WEIGHTS = {
    "vitt": "shipped in the package (a demonstration model, trained on rendered rooms)",
    "vitl": "camera-depth-model-{d435,d405,l515,kinect,zed2i-*,base} (CC-BY-NC-4.0: not for commercial use)",
}
_LICENSES = {"vitt": "Apache-2.0, as this package", "vitl": "CC-BY-NC-4.0 for the published weights"}
_INPUT_SIZES = {"vitt": 266}
_SIZING = Sizing(rule="lower_bound", multiple=PATCH)
_LAST = "depth_head_rgbd.scratch.output_conv2.2"
_ISLANDS = (
    Island(
        kind=IslandKind.DECLARED,
        module="depth_pretrained.patch_embed",
        reason="inverse depth reaches 1000 1/m at 1 mm, and 196 of them are summed",
        output_dtype="low",
    ),
    Island(
        kind=IslandKind.DECLARED,
        module=_LAST,
        reason="half a millimeter at 1 m is an eleventh bit of inverse depth",
        output_dtype="fp32",
    ),
)
_SECTIONS = (
    encoder_section("color encoder", "pretrained"),
    encoder_section("depth encoder", "depth_pretrained"),
    decoder_section("decoder", "depth_head_rgbd"),
)


_ENCODERS = ("pretrained", "depth_pretrained")
_PRECISION = dino_precision(
    _ENCODERS,
    "depth_head_rgbd",
    _ISLANDS,
    sums=(("crossAtts.*.core", "sums of the two-token attention, elementwise"),),
    fusions=("crossAtts.*",),
)
_QUANTIZATION = dino_quantization(_ENCODERS, fusions=("crossAtts.*",))


def _rewrites() -> "Mapping[str, Rule]":
    from cdm_export.reference_model.cdm.rewrites import RULES

    return RULES


def _build(size: str) -> "nn.Module":
    from cdm_export.reference_model.cdm.network import Cdm

    return Cdm(CONFIGS[size])


def _fits(shapes: Mapping[str, tuple[int, ...]], size: str) -> bool:
    """A second encoder, and as wide."""
    return shapes.get("depth_pretrained.cls_token", (0,))[-1] == CONFIGS[size].encoder.width


def contract(
    model: str,
    camera: Size,
    input_size: int = 518,
    channel_order: ChannelOrder = "bgr",
    max_depth: float = 6.0,
    far: float | None = None,
    batch: int = 1,
) -> ModelContract:
    """GraphInterface of a CDM artifact made for ``camera``: see ``ModelContract`` for units and defaults."""
    network, content = network_size(camera, input_size, _SIZING)
    plane = (network.height, network.width)
    return ModelContract(
        model=model,
        semantics=Semantics.INVERSE_DEPTH,
        inputs=(
            TensorSpec(
                name="image",
                shape=(batch, 3, *plane),
                unit="RGB, 0..1",
                source="rgb",
                processing=Processing(resize="cubic", normalization="unit"),
            ),
            TensorSpec(
                name="inverse_depth",
                shape=(batch, 1, *plane),
                unit="1/m, 0 = invalid",
                source="depth",
                processing=Processing(resize="nearest", normalization="inverse_depth"),
            ),
        ),
        outputs=(TensorSpec(name="inverse_depth_refined", shape=(batch, 1, *plane), unit="1/m, >= 0"),),
        camera=camera,
        network=network,
        content=content,
        sizing=_SIZING,
        input_size=input_size,
        channel_order=channel_order,
        max_depth=max_depth,
        far=DEFAULT_FAR if far is None else far,
    )


VARIANTS = tuple(
    Variant(
        name=f"cdm-{size}",
        family="cdm",
        summary=f"Camera Depth Model, two ViT-{size[-1].upper()}/14 encoders: RGB + sensor depth -> metric depth",
        million_parameters=_MILLIONS[size],
        weights=_WEIGHTS.get(size, "none published"),
        license=_LICENSES.get(size, ""),
        default_input_size=_INPUT_SIZES.get(size, 518),
        build=lambda size=size: _build(size),  # type: ignore[misc]
        fits=lambda shapes, size=size: _fits(shapes, size),  # type: ignore[misc]
        contract=contract,
        channel_orders=("bgr", "rgb"),
        unused_parameters=DINO_DPT_UNUSED,
        last_convolution=_LAST,
        seeded_range=SeededRange(1 / 4.0, 1 / 0.5, "0.5 to 4 m"),
        image=DINO_IMAGE,
        rewrites=_rewrites,
        precision=_PRECISION,
        quantization=_QUANTIZATION,
        sections=_SECTIONS,
    )
    for size in CONFIGS
)
