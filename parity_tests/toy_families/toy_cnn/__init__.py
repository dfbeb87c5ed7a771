"""A convolutional network of somebody else's: multiples of 32 by padding, statistics of its own, depth in meters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cdm_export.reference_model.variant import ImageStatistics, Variant
from cdm_export.runtimes.contract import ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.processing.size import network_size

if TYPE_CHECKING:
    from torch import nn

_SIZING = Sizing(rule="camera", multiple=32, padding="center")


def _build() -> "nn.Module":
    from toy_cnn.network import ToyCnn

    return ToyCnn()


def _seed(network, generator) -> None:
    from toy_cnn.network import seed

    seed(network, generator)


def _fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return shapes.get("loud.weight") == (32, 32, 1, 1)


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
        semantics=Semantics.METRIC_DEPTH,
        inputs=(TensorSpec(name="picture", shape=(1, 3, *plane), unit="RGB, 0..1", source="rgb", processing=image),),
        outputs=(TensorSpec(name="meters", shape=(1, 1, *plane), unit="m"),),
        camera=camera,
        network=network,
        content=content,
        sizing=_SIZING,
        input_size=input_size,
        channel_order=channel_order,
        output_resize="bilinear",
        max_depth=max_depth,
        far=far or 25.0,
    )


VARIANTS = (
    Variant(
        name="toy-cnn",
        family="toy-cnn",
        summary="A toy: RGB -> metric depth",
        million_parameters=0.02,
        weights="none published",
        license="",
        build=_build,
        fits=_fits,
        contract=_contract,
        default_input_size=32,
        image=ImageStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        seed=_seed,
    ),
)
