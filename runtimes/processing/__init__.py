"""The closed set of processing primitives a contract can name; numpy and OpenCV only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ModelContract, Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import depth, image, output


def preprocess(
    frame: Frame, contract: ModelContract, image_buffer: NDArray[Any] | None = None
) -> dict[str, NDArray[Any]]:
    """Frame at camera size -> network inputs by name, each [1, C, h, w] of the contract's type.

    ``image_buffer``: an earlier ``image`` that nobody needs any more, written instead of a new array.
    Raises InputError when the frame lacks what the contract needs, has a right image that no input takes, or has
    another size, and for a contract with an input that is not made here. Depth that no input takes is left alone: it
    may give a scale afterwards (``runtimes/metric_scale.py``).
    """
    made = ["image"] if contract.depth_input is None else ["image", "inverse_depth"]
    unknown = [spec.name for spec in contract.inputs if spec.name not in made]
    if unknown:
        raise InputError(
            f"{contract.model} reads {', '.join(unknown)}: this version prepares {' and '.join(made)} for it, "
            "and nothing else",
            "Run this bundle with the version of cdm-export that made it.",
        )
    if frame.right is not None:
        raise InputError(
            f"{contract.model} reads one image: the frame has a right image too", "Leave the right image out."
        )
    if frame.size != contract.camera:
        raise InputError(
            f"the frame is {frame.size}, this bundle was made for {contract.camera}",
            f"Export a bundle with --camera {frame.size}, or resize the frames with --fit.",
        )
    inputs = {"image": image.RESIZES[contract.image_resize](frame.rgb, contract.network, image_buffer)}
    if contract.depth_input is not None:
        if frame.depth is None:
            raise InputError(f"{contract.model} refines sensor depth: the frame has no depth image")
        resize = depth.INPUTS[contract.depth_input]
        inputs["inverse_depth"] = resize(frame.depth, contract.network, contract.max_depth)
    return inputs


def stacked(inputs: Sequence[Mapping[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    """Network inputs of one frame each, float32 [1, C, h, w] -> [B, C, h, w] by name; of a single one, as they are."""
    if len(inputs) == 1:
        return dict(inputs[0])
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


def at_camera_size(raw: NDArray[np.float32], contract: ModelContract) -> NDArray[np.float32]:
    """Raw output [1, 1, h, w] -> [H, W] at camera size, still in the network's unit."""
    return output.RESIZES[contract.output_resize](raw[0, 0], Size(*contract.camera))


def postprocess(raw: NDArray[np.float32], contract: ModelContract) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Raw output [1, 1, h, w] -> (values [H, W] in the contract's unit, valid [H, W])."""
    return output.interpret(at_camera_size(raw, contract), contract)
