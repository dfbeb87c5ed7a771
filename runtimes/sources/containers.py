"""Whether a PNG or JPEG file is whole.

OpenCV is not a judge of that: depending on its version it returns a picture whose lower half is gray, or lets libpng
print to the terminal. A depth image with invented pixels is worse than none.
"""

import zlib


def damage(data: bytes) -> str:
    """What is wrong with the bytes of an image file in a few words; empty when whole, or neither PNG nor JPEG."""
    if not data:
        return "the file is empty"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_damage(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_damage(data)
    return ""


def _png_damage(data: bytes) -> str:
    """Chunks are length (4), type (4), body, CRC of type and body (4); the last is IEND (PNG specification, 5.3)."""
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return "its contents do not match their checksum"
        if data[position + 4 : position + 8] == b"IEND":
            return ""
        position = end + 4
    return "the file is cut short"


def _jpeg_damage(data: bytes) -> str:
    """Header segments are FF, marker, length (2) with body; after the first scan begins, FF D9 can only be its end.

    (ITU-T T.81, B.1.1: a data byte FF is followed by 00.) Thumbnails lie inside header segments and are stepped over.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xFF:  # Fill byte.
            position += 1
            continue
        if data[position + 1] == 0xDA:
            return "" if data.find(b"\xff\xd9", position) >= 0 else "the file is cut short"
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return "the file is cut short"
