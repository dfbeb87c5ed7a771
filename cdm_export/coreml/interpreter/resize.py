"""Resizing images, each way of laying the grids on each other as the operation's documentation defines it."""

from collections.abc import Callable

import torch
from torch import Tensor

from cdm_export.coreml.interpreter.call import Call
from cdm_export.runtimes.errors import BundleError


def bilinear(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[B, C, h, w] read at fractional rows and columns (float64, one per side of the result), clamped to the image."""
    for axis, places in ((2, rows), (3, columns)):
        side = image.shape[axis]
        places = places.clamp(0, side - 1)
        low = places.floor().long()
        high = (low + 1).clamp(max=side - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        share = (places - low).to(image.dtype).reshape(shape)
        image = image.index_select(axis, low) * (1 - share) + image.index_select(axis, high) * share
    return image


def aligned(size: int, side: int) -> Tensor:
    """Corners on corners."""
    return torch.linspace(0, side - 1, size, dtype=torch.float64) if size > 1 else torch.zeros(1, dtype=torch.float64)


def half_pixel(size: int, scale: float) -> Tensor:
    """Pixels are areas."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5


def from_corner(size: int, scale: float) -> Tensor:
    """Pixels are points, the first on the first."""
    return torch.arange(size, dtype=torch.float64) / scale


def upsample_bilinear(call: Call) -> Tensor:
    """By scale factors."""
    image = call.tensor("x")
    corners = call.flag("align_corners", True)
    half = call.flag("half_pixel_centers", not corners)
    places = []
    for axis, name in ((2, "scale_factor_height"), (3, "scale_factor_width")):
        scale, size, side = call.number(name, 1.0), call.shapes[0][axis], image.shape[axis]
        if corners:
            places.append(aligned(size, side))
        else:
            places.append(half_pixel(size, scale) if half else from_corner(size, scale))
    return bilinear(image, places[0], places[1])


def resize_bilinear(call: Call) -> Tensor:
    """To a size."""
    image, mode = call.tensor("x"), call.text("sampling_mode", "DEFAULT")
    places = []
    for axis in (2, 3):
        size, side = call.shapes[0][axis], image.shape[axis]
        if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and size > 1):
            places.append(aligned(size, side))
        elif mode in ("DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS", "ALIGN_CORNERS"):
            place = half_pixel if mode in ("UNALIGN_CORNERS", "OFFSET_CORNERS") else from_corner
            if mode == "OFFSET_CORNERS" and size != side:
                raise BundleError(f"operation '{call.name}' (resize_bilinear) samples by '{mode}': not read")
            places.append(place(size, size / side))
        else:
            raise BundleError(f"operation '{call.name}' (resize_bilinear) has the unknown sampling '{mode}'")
    return bilinear(image, places[0], places[1])


def upsample_nearest(call: Call) -> Tensor:
    """The pixel below."""
    image = call.tensor("x")
    for axis, name in ((2, "scale_factor_height"), (3, "scale_factor_width")):
        size, scale = call.shapes[0][axis], call.number(name, 1.0)
        image = image.index_select(axis, (torch.arange(size) / scale).floor().long().clamp(max=image.shape[axis] - 1))
    return image


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {
    "upsample_bilinear": upsample_bilinear,
    "resize_bilinear": resize_bilinear,
    "upsample_nearest_neighbor": upsample_nearest,
}
