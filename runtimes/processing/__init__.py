"""The closed set of processing primitives a contract can name; numpy and OpenCV only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ModelContract, Semantics, Size, Source, TensorSpec
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import depth, image, output
from cdm_export.runtimes.processing.padding import pad_around, window

_MISSING: dict[Source, tuple[str, str]] = {
    "right": ("reads a stereo pair: the frame has no right image", "Give it with --right FILE, or as Frame.right."),
    "depth": ("refines sensor depth: the frame has no depth image", ""),
}
"""What to say of a part of the frame that an input is made of, and that is not there."""


def preprocess(
    frame: Frame, contract: ModelContract, buffers: Mapping[str, NDArray[Any]] | None = None
) -> dict[str, NDArray[Any]]:
    """Frame at camera size -> the contract's inputs by name, each of its shape for one frame and of its type.

    ``buffers``: what an earlier call returned and nobody needs any more, written instead of new arrays.
    Raises InputError when the frame lacks what the contract needs, has a right image that no input takes, or has
    another size. Depth that no input takes is left alone: it may give a scale afterwards
    (``runtimes/metric_scale.py``).
    """
    if frame.right is not None and not contract.reads("right"):
        raise InputError(
            f"{contract.model} reads one image: the frame has a right image too", "Leave the right image out."
        )
    if frame.size != contract.camera:
        raise InputError(
            f"the frame is {frame.size}, this bundle was made for {contract.camera}",
            f"Export a bundle with --camera {frame.size}, or resize the frames with --fit.",
        )
    return {spec.name: _made(frame, spec, contract, (buffers or {}).get(spec.name)) for spec in contract.inputs}


def _made(frame: Frame, spec: TensorSpec, contract: ModelContract, buffer: NDArray[Any] | None) -> NDArray[Any]:
    processing = spec.processing
    assert spec.source is not None and processing is not None  # the contract's own check
    part: NDArray[Any] | None = {"rgb": frame.rgb, "right": frame.right, "depth": frame.depth}[spec.source]
    if part is None:
        what, advice = _MISSING[spec.source]
        raise InputError(f"{contract.model} {what}", advice)
    planar = (1 if spec.source == "depth" else 3, contract.network.height, contract.network.width)
    nhwc = processing.layout == "NHWC"
    planes = np.empty(planar, spec.dtype) if buffer is None or nhwc else buffer[0]
    inside = window(contract)
    if processing.of_image:
        image.write_planes(part, processing, planes, inside)
    else:
        make = depth.NORMALIZATIONS[processing.normalization]
        planes[0][inside] = make(part, contract.content, contract.max_depth)
        pad_around(planes[0], inside, processing.padding)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))[None] if nhwc else planes[None]


def stacked(inputs: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Network inputs of one frame each, [1, ...] -> [B, ...] by name; of a single one, as they are."""
    if len(inputs) == 1:
        return dict(inputs[0])
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


def at_camera_size(raw: NDArray[np.float32], contract: ModelContract) -> NDArray[np.float32]:
    """Raw output [1, 1, h, w] -> [H, W] at camera size: the frame's window of it, resized.

    Still in the network's unit, but for disparity: pixels of the network's image become pixels of the camera's.
    """
    resized = output.RESIZES[contract.output_resize](raw[0, 0][window(contract)], Size(*contract.camera))
    if contract.semantics is Semantics.DISPARITY and contract.content != contract.camera:
        return resized * np.float32(contract.camera.width / contract.content.width)
    return resized


def postprocess(raw: NDArray[np.float32], contract: ModelContract) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Raw output [1, 1, h, w] -> (values [H, W] in the contract's unit, valid [H, W])."""
    return output.interpret(at_camera_size(raw, contract), contract)
