"""CDM: the family's variants, how to build them, and what their tensors mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reference_model.cdm.config import CONFIGS
from reference_model.config import ChannelOrder
from reference_model.variant import Variant
from runtimes.contract import DEFAULT_FAR, ModelContract, Semantics, Size, TensorSpec
from runtimes.processing.size import lower_bound_size
from runtimes.typed_graph import Island

if TYPE_CHECKING:
    from torch import nn

_MILLIONS = {"vitt": 12.787, "vits": 49.484, "vitb": 194.607, "vitl": 659.361, "vitg": 2441.823}
_WEIGHTS = {
    "vitt": "shipped in the package (a demonstration model, trained on rendered rooms)",
    "vitl": "camera-depth-model-{d435,d405,l515,kinect,zed2i-*,base} (CC-BY-NC-4.0: not for commercial use)",
}
_LICENCES = {"vitt": "Apache-2.0, as this package", "vitl": "CC-BY-NC-4.0 for the published weights"}
_INPUT_SIZES = {"vitt": 266}
_LAST = "depth_head_rgbd.scratch.output_conv2.2"
_ISLANDS = (
    Island(
        module="depth_pretrained.patch_embed",
        reason="inverse depth reaches 1000 1/m at 1 mm, and 196 of them are summed",
        hands_on="low",
    ),
    Island(module=_LAST, reason="half a millimetre at 1 m is an eleventh bit of inverse depth", hands_on="fp32"),
)
_UNUSED = ("mask_token", "refinenet4.resConfUnit1.")


def _build(size: str) -> "nn.Module":
    from reference_model.cdm.network import Cdm

    return Cdm(CONFIGS[size])


def _on_boundary(network: "nn.Module", order: ChannelOrder) -> "nn.Module":
    from reference_model.cdm.network import Cdm, CdmOnBoundary

    assert isinstance(network, Cdm)
    return CdmOnBoundary(network, order)


def _detect(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Variant whose encoder width the state dict has; None when it is no CDM."""
    width = shapes.get("depth_pretrained.cls_token", (0,))[-1]
    return next((f"cdm-{size}" for size, config in CONFIGS.items() if config.encoder.width == width), None)


def contract(
    model: str,
    camera: Size,
    input_size: int = 518,
    channel_order: ChannelOrder = "bgr",
    max_depth: float = 6.0,
    far: float = DEFAULT_FAR,
    batch: int = 1,
) -> ModelContract:
    """Boundary of a CDM artefact made for ``camera``: see ``ModelContract`` for units and defaults."""
    network = lower_bound_size(camera, input_size)
    plane = (network.height, network.width)
    return ModelContract(
        model=model,
        semantics=Semantics.INVERSE_DEPTH,
        inputs=(
            TensorSpec(name="image", shape=(batch, 3, *plane), unit="RGB, 0..1"),
            TensorSpec(name="inverse_depth", shape=(batch, 1, *plane), unit="1/m, 0 = invalid"),
        ),
        outputs=(TensorSpec(name="inverse_depth_refined", shape=(batch, 1, *plane), unit="1/m, >= 0"),),
        camera=camera,
        network=network,
        input_size=input_size,
        channel_order=channel_order,
        max_depth=max_depth,
        far=far,
    )


VARIANTS = tuple(
    Variant(
        name=f"cdm-{size}",
        family="cdm",
        summary=f"Camera Depth Model, two ViT-{size[-1].upper()}/14 encoders: RGB + sensor depth -> metric depth",
        million_parameters=_MILLIONS[size],
        weights=_WEIGHTS.get(size, "none published"),
        licence=_LICENCES.get(size, ""),
        default_input_size=_INPUT_SIZES.get(size, 518),
        build=lambda size=size: _build(size),  # type: ignore[misc]
        on_boundary=_on_boundary,
        detect=_detect,
        contract=contract,
        unused_parameters=_UNUSED,
        last_convolution=_LAST,
        islands=_ISLANDS,
    )
    for size in CONFIGS
)
