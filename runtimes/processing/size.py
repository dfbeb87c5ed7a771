"""Size of the network input for a camera."""

import numpy as np

from cdm_export.runtimes.contract import LARGEST_SIDE, Size, Sizing
from cdm_export.runtimes.errors import InputError


def network_size(camera: Size, input_size: int, sizing: Sizing) -> tuple[Size, Size]:
    """(network, content): size of the network's input, and of the frame inside it.

    Raises InputError for a camera that the rule makes a network of more than 16384 pixels of, or of none, or, without
    padding, one whose own sides are no multiples.
    """
    content = _CONTENT[sizing.rule](camera, input_size, sizing.multiple if sizing.padding == "none" else 1)
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
    if min(network) < 1:
        raise InputError(
            f"a camera of {camera} at input size {input_size} makes a network input of {network}: the shorter side is "
            f"less than half of {sizing.multiple} pixels",
            "Give the size of the camera's frames, for example --camera 640x480.",
        )
    if sizing.padding == "none" and network != content:
        raise InputError(
            f"a camera of {camera} has sides that are no multiples of {sizing.multiple}, which this model wants",
            f"Crop and resize the frames: --camera {network} --fit.",
        )
    return network, content


def _nearest(length: float, multiple: int) -> int:
    """Half to even, as the reference implementations round."""
    return int(np.round(length / multiple)) * multiple


def _minimal(camera: Size, input_size: int, multiple: int) -> Size:
    """MiDaS' rule: of the two scales the one that changes the image least, for both sides."""
    across, down = input_size / camera.width, input_size / camera.height
    scale = across if abs(1 - across) < abs(1 - down) else down
    return Size(_nearest(scale * camera.width, multiple), _nearest(scale * camera.height, multiple))


def _longest_side(camera: Size, input_size: int, multiple: int) -> Size:
    """Muggled DPT's rule: no side is less than one multiple."""
    scale = input_size / max(camera)
    width, height = (max(multiple, _nearest(scale * side, multiple)) for side in camera)
    return Size(width, height)


def _fixed(camera: Size, input_size: int, multiple: int) -> Size:
    side = max(multiple, _nearest(input_size, multiple))
    return Size(side, side)


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


_CONTENT = {
    "lower_bound": lower_bound_size,
    "camera": lambda camera, input_size, multiple: camera,
    "fixed": _fixed,
    "minimal": _minimal,
    "longest_side": _longest_side,
}
"""By rule: size of the frame in the network's input."""
