"""Size of the network input for a camera."""

import numpy as np

from cdm_export.runtimes.contract import Size

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
