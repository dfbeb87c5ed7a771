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


def resample(call: Call) -> Tensor:
    """Between pixels, at columns and rows of -1..1; outside of the image is 0, or its border."""
    image, places = call.tensor("x"), call.tensor("coordinates").double()
    wanted = (call.text("sampling_mode"), call.text("coordinates_mode"), call.text("padding_mode"))
    zero = wanted[2] == "constant" and call.number("padding_value", 0.0) == 0
    if wanted[:2] != ("bilinear", "normalized_minus_one_to_one") or not (zero or wanted[2] == "border"):
        raise BundleError(f"operation '{call.name}' (resample) samples by {', '.join(wanted)}: not read")
    batch, channels, height, width = image.shape
    sides = torch.tensor((width, height), dtype=torch.float64)
    places = (places + 1) / 2 * (sides - 1) if call.flag("align_corners") else ((places + 1) * sides - 1) / 2
    first = places.floor()
    share = places - first
    out = torch.zeros(batch, channels, *places.shape[1:3], dtype=torch.float64)
    for right in (0, 1):
        for below in (0, 1):
            column, row = first[..., 0] + right, first[..., 1] + below
            weight = (share[..., 0] if right else 1 - share[..., 0]) * (share[..., 1] if below else 1 - share[..., 1])
            if zero:
                weight = weight * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
            place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            seen = image.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, channels, -1))
            out += seen.reshape(out.shape) * weight[:, None]
    return out.to(image.dtype)


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {
    "upsample_bilinear": upsample_bilinear,
    "resize_bilinear": resize_bilinear,
    "upsample_nearest_neighbor": upsample_nearest,
    "resample": resample,
}
