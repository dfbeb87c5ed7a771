"""The first directory of a TIFF file: its size, and how a viewer is to turn it.

OpenCV turns a TIFF whatever its flags say (5.0), so that color beside a depth image arrives turned and depth does not.
"""

from typing import Literal, NamedTuple

_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_SIZES = {1: 1, 3: 2, 4: 4, 16: 8}
"""Bytes of a value by its type: byte, short, long, and long of BigTIFF."""


class Field(NamedTuple):
    """One value of the directory."""

    value: int
    place: int
    """Offset in the file."""
    size: int
    """Bytes."""


def fields(data: bytes) -> dict[int, Field]:
    """Single whole numbers of the first directory, by tag; empty for what is no TIFF, or cut short before its end."""
    order = _order(data)
    if order is None:
        return {}
    big = int.from_bytes(data[2:4], order) == 43
    wide, entry, head = (8, 20, 8) if big else (4, 12, 2)
    start = int.from_bytes(data[8:16] if big else data[4:8], order)
    count = int.from_bytes(data[start : start + head], order)
    found: dict[int, Field] = {}
    for index in range(min(count, 4096)):
        place = start + head + index * entry
        if place + entry > len(data):
            break
        tag, kind = (int.from_bytes(data[place + at : place + at + 2], order) for at in (0, 2))
        values = int.from_bytes(data[place + 4 : place + 4 + wide], order)
        size = _SIZES.get(kind)
        if size is not None and values == 1 and size <= wide:
            at = place + 4 + wide
            found.setdefault(tag, Field(int.from_bytes(data[at : at + size], order), at, size))
    return found


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height as they are stored, pixels."""
    found = fields(data)
    return (found[_WIDTH].value, found[_HEIGHT].value) if _WIDTH in found and _HEIGHT in found else None


def as_stored(data: bytes) -> bytes:
    """The same file, whose pixels nobody turns."""
    orientation = fields(data).get(_ORIENTATION)
    order = _order(data)
    if orientation is None or order is None or orientation.value == 1:
        return data
    one = (1).to_bytes(orientation.size, order)
    return data[: orientation.place] + one + data[orientation.place + orientation.size :]


def _order(data: bytes) -> Literal["little", "big"] | None:
    if data[:4] in (b"II*\0", b"II+\0"):
        return "little"
    return "big" if data[:4] in (b"MM\0*", b"MM\0+") else None
