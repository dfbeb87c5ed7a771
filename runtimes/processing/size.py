"""Size of the network input for a camera."""

import numpy as np

from cdm_export.runtimes.contract import LARGEST_SIDE, Size, Sizing
from cdm_export.runtimes.errors import InputError


def network_size(camera: Size, input_size: int, sizing: Sizing) -> tuple[Size, Size]:
    """(network, content): size of the network's input, and of the frame inside it. Not for the rule ``fixed``.

    Raises InputError for a camera that the rule makes a network of more than 16384 pixels of, or, without padding, one
    whose own sides are no multiples.
    """
    if sizing.rule == "camera":
        content = camera
    elif sizing.padding == "none":
        content = lower_bound_size(camera, input_size, sizing.multiple)
    else:
        content = lower_bound_size(camera, input_size, 1)
    network = Size(*(-(-side // sizing.multiple) * sizing.multiple for side in content))
    if max(network) > LARGEST_SIDE:
        raise InputError(
            f"a camera of {camera} makes a network input of {network}: expected no side above {LARGEST_SIDE}"
            + (
                f", so one side of the camera at most {LARGEST_SIDE // input_size} times the other at input size "
                f"{input_size}"
                if sizing.rule == "lower_bound"
                else ""
            ),
            "Give the size of the camera's frames, for example --camera 640x480.",
        )
    if sizing.padding == "none" and network != content:
        raise InputError(
            f"a camera of {camera} has sides that are no multiples of {sizing.multiple}, which this model wants",
            f"Crop and resize the frames: --camera {network} --fit.",
        )
    return network, content


def lower_bound_size(camera: Size, input_size: int, multiple: int = 14) -> Size:
    """Smallest size of the camera's aspect whose sides reach ``input_size``, in multiples of ``multiple``.

    The reference implementation's ``lower_bound`` rule: one scale for both sides, each side rounded to the nearest
    multiple (half to even), or up when that falls short. ``input_size`` need not be a multiple.

    >>> lower_bound_size(Size(640, 480), 518)
    Size(width=686, height=518)
    """
    scale = max(input_size / camera.height, input_size / camera.width)

    def side(length: int) -> int:
        rounded = int(np.round(scale * length / multiple) * multiple)
        return rounded if rounded >= input_size else int(np.ceil(scale * length / multiple) * multiple)

    return Size(side(camera.width), side(camera.height))
