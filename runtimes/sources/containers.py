"""Whether a PNG, JPEG or WebP file is whole, and how large an image says it is, before anything decodes it.

OpenCV is not a judge of that: depending on its version it returns a picture whose lower half is gray, or lets libpng
print to the terminal. A depth image with invented pixels is worse than none.
"""

import zlib

from cdm_export.runtimes.sources import tiff

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_ZERO_TAIL = 512
"""Zero bytes at the end of compressed data that no encoder writes: a copy that stopped in a file made large before."""


def damage(data: bytes) -> str:
    """What is wrong with the bytes of an image file in a few words; empty when whole, or of another format."""
    if not data:
        return "the file is empty"
    if not data.strip(b"\0"):
        return "the file holds nothing but zeros"
    if data.startswith(_PNG):
        return _png_damage(data)
    if data.startswith(_JPEG):
        return _jpeg_damage(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_damage(data)
    return ""


def pixels(data: bytes) -> tuple[int, int] | None:
    """Width and height that the header of a PNG, JPEG, TIFF, BMP or PFM gives; None where it says none."""
    if data.startswith(_PNG):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(_JPEG):
        frames = [body for marker, body in _segments(data) if _is_frame(marker)]
        return (int.from_bytes(frames[0][3:5], "big"), int.from_bytes(frames[0][1:3], "big")) if frames else None
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
        return width, abs(height)  # a negative height is stored from the top
    if data[:2] in (b"Pf", b"PF"):
        words = data[:200].split()
        digits = len(words) > 2 and words[1].isdigit() and words[2].isdigit()
        return (int(words[1][:9]), int(words[2][:9])) if digits else None
    return tiff.size(data)


def _png_damage(data: bytes) -> str:
    """Chunks are length (4), type (4), body, CRC of type and body (4); the last is IEND (PNG specification, 5.3)."""
    position = len(_PNG)
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


def _webp_damage(data: bytes) -> str:
    """RIFF: the size (4) of everything after it, padded to an even number."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        return "the file is cut short"
    return "its end is nothing but zeros" if not data[max(12, end - _ZERO_TAIL) : end].strip(b"\0") else ""


def _jpeg_damage(data: bytes) -> str:
    """Whether the end is there, and before it every part of every component.

    What is missing inside a scan only a decoder can tell (``decode.py``); that a whole scan is missing, none does.
    """
    segments = _segments(data)
    if not segments or segments[-1][0] != _END:
        return "the file is cut short"
    frame = next(((marker, body) for marker, body in segments if _is_frame(marker)), None)
    if frame is None:
        return "it has no picture"
    marker, body = frame
    components = [body[6 + 3 * index] for index in range(body[5])] if len(body) >= 6 + 3 * body[5] else []
    scans = [scan for kind, scan in segments if kind == _SCAN]
    complete = _every_bit(components, scans) if marker in _PROGRESSIVE else _every_component(components, scans)
    return "" if components and complete else "the file is cut short"


_END, _SCAN = 0xD9, 0xDA
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a body."""


def _is_frame(marker: int) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _segments(data: bytes) -> list[tuple[int, bytes]]:
    """Markers and their bodies up to the end, which is the last if it is there; scans' data is stepped over.

    Segments are FF, marker, length (2) with body (ITU-T T.81, B.1.1). In a scan's data FF is followed by 00, or by one
    of D0 to D7, or by another FF. Thumbnails lie inside segments.
    """
    found: list[tuple[int, bytes]] = []
    position = 2
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # Fill byte.
            position += 1
            continue
        if marker == _END:
            return [*found, (_END, b"")]
        if marker in _ALONE:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = position + 2 + length
        if length < 2 or end > len(data):
            break
        found.append((marker, data[position + 4 : end]))
        position = _after_scan(data, end) if marker == _SCAN else end
    return found


def _after_scan(data: bytes, position: int) -> int:
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            return len(data)
        if data[position + 1] not in (0x00, *range(0xD0, 0xD8)):
            return position
        position += 2


def _every_component(components: list[int], scans: list[bytes]) -> bool:
    seen = {scan[1 + 2 * index] for scan in scans if scan for index in range(scan[0]) if len(scan) > 1 + 2 * index}
    return set(components) <= seen


def _every_bit(components: list[int], scans: list[bytes]) -> bool:
    """A progressive picture is whole when every coefficient came down to its last bit (T.81, G.1.1.1)."""
    waiting = {component: set(range(64)) for component in components}
    for scan in scans:
        if not scan or len(scan) < 1 + 2 * scan[0] + 3:
            return False
        first, last, bits = scan[1 + 2 * scan[0] : 4 + 2 * scan[0]]
        for index in range(scan[0]):
            if bits & 0x0F == 0:
                waiting.get(scan[1 + 2 * index], set()).difference_update(range(first, last + 1))
    return not any(waiting.values())
