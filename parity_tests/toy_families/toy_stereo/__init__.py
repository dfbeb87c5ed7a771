"""A stereo network of somebody else's: a pair in, disparity in pixels out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.processing.size import network_size

if TYPE_CHECKING:
    from torch import nn

_SIZING = Sizing(rule="camera", multiple=8, padding="end")


def _build() -> "nn.Module":
    from toy_stereo.network import ToyStereo

    return ToyStereo()


def _seed(network, generator) -> None:
    from toy_stereo.network import seed

    seed(network, generator)


def _fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return shapes.get("costs.weight") == (32, 16, 3, 3)


def _contract(
    model: str,
    camera: Size,
    input_size: int = 32,
    channel_order="rgb",
    max_depth: float = 6.0,
    far: float | None = None,
) -> ModelContract:
    network, content = network_size(camera, input_size, _SIZING)
    plane = (network.height, network.width)
    image = Processing(resize="bilinear", normalization="unit", padding="edge")
    return ModelContract(
        model=model,
        semantics=Semantics.DISPARITY,
        inputs=(
            TensorSpec(name="left", shape=(1, 3, *plane), unit="RGB, 0..1", source="rgb", processing=image),
            TensorSpec(name="right_eye", shape=(1, 3, *plane), unit="RGB, 0..1", source="right", processing=image),
        ),
        outputs=(TensorSpec(name="disparity", shape=(1, 1, *plane), unit="px"),),
        camera=camera,
        network=network,
        content=content,
        sizing=_SIZING,
        input_size=input_size,
        channel_order=channel_order,
        output_resize="bilinear",
        max_depth=max_depth,
    )


VARIANTS = (
    Variant(
        name="toy-stereo",
        family="toy-stereo",
        summary="A toy: a pair -> disparity",
        million_parameters=0.02,
        weights="none published",
        license="",
        build=_build,
        fits=_fits,
        contract=_contract,
        default_input_size=32,
        images=2,
        seed=_seed,
    ),
)
