"""Size of the network input for a camera."""

import numpy as np

from cdm_export.runtimes.contract import LARGEST_SIDE, Size
from cdm_export.runtimes.errors import InputError

MULTIPLE = 14
"""Sides of the network input are multiples of the ViT patch."""


def lower_bound_size(camera: Size, input_size: int) -> Size:
    """Smallest size of the camera's aspect whose sides reach ``input_size``, in multiples of 14.

    The reference implementation's ``lower_bound`` rule: one scale for both sides, each side rounded to the nearest
    multiple (half to even), or up when that falls short. ``input_size`` need not be a multiple of 14.

    >>> lower_bound_size(Size(640, 480), 518)
    Size(width=686, height=518)
    """
    scale = max(input_size / camera.height, input_size / camera.width)

    def side(length: int) -> int:
        rounded = int(np.round(scale * length / MULTIPLE) * MULTIPLE)
        return rounded if rounded >= input_size else int(np.ceil(scale * length / MULTIPLE) * MULTIPLE)

    return Size(side(camera.width), side(camera.height))


def check_camera(camera: Size, input_size: int) -> None:
    """Raises InputError for a camera so narrow that a side of its network input would exceed 16384 pixels."""
    network = lower_bound_size(camera, input_size)
    if max(network) > LARGEST_SIDE:
        raise InputError(
            f"a camera of {camera} makes a network input of {network}: expected no side above {LARGEST_SIDE}, so one "
            f"side of the camera at most {LARGEST_SIDE // input_size} times the other at input size {input_size}",
            "Give the size of the camera's frames, for example --camera 640x480.",
        )
