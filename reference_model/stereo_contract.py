"""What the tensors of a stereo network mean: a rectified pair in, disparity of the left image out."""

from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.variant import ImageStatistics
from cdm_export.runtimes.contract import ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.processing.size import network_size

SIGNED_IMAGE = ImageStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Images in -1..1. The first convolution has padding, into which no mean can be folded."""


def stereo_contract(
    sizing: Sizing,
    least: Size,
    model: str,
    camera: Size,
    input_size: int = 32,
    channel_order: ChannelOrder = "rgb",
    max_depth: float = 6.0,
    far: float | None = None,
) -> ModelContract:
    """Graph interface of an artifact made for ``camera``: see ``ModelContract`` for units and defaults. Where
    ``sizing`` pads, the border of the image goes on.

    Raises InputError for an image smaller than ``least``.
    """
    network, content = network_size(camera, input_size, sizing)
    if network.width < least.width or network.height < least.height:
        raise InputError(
            f"{model} needs images of at least {least}, got {network}: on its coarsest grid there is nothing between "
            "one column, or row, and the next",
            "Give larger frames, for example --camera 640x480 --fit.",
        )
    plane = (network.height, network.width)
    image = Processing(resize="bilinear", normalization="unit", padding="edge")
    return ModelContract(
        model=model,
        semantics=Semantics.DISPARITY,
        inputs=(
            TensorSpec(name="left_image", shape=(1, 3, *plane), unit="RGB, 0..1", source="rgb", processing=image),
            TensorSpec(name="right_image", shape=(1, 3, *plane), unit="RGB, 0..1", source="right", processing=image),
        ),
        outputs=(TensorSpec(name="disparity", shape=(1, 1, *plane), unit="px of the network's image"),),
        camera=camera,
        network=network,
        content=content,
        sizing=sizing,
        input_size=input_size,
        channel_order=channel_order,
        output_resize="bilinear",
        max_depth=max_depth,
    )
