"""Files that are not read, by the name of their format, and the line that converts them.

OpenCV reads some of these in some of its builds, and then not always the right part of them (the thumbnail of a raw
photograph, the first picture of an animation, one channel of an EXR).
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Format:
    """A file format that is not read."""

    name: str
    """As people call it."""
    conversion: str
    """Command that makes a file that is read; ``{name}`` and ``{stem}`` stand for the file's."""
    tried: bool = False
    """Whether a single file is decoded all the same where OpenCV can, since it has but one meaning."""
    image: bool = True
    """Whether its files are images, so that a folder should say that it leaves them out."""

    def advice(self, path: Path) -> str:
        """The command, with the file's name in it."""
        return "Convert it: " + self.conversion.replace("{name}", path.name).replace("{stem}", path.stem)


_PILLOW = """python -c "from PIL import Image; Image.open('{name}').convert('RGB').save('{stem}.png')" """.strip()
_EXR = Format(
    "OpenEXR",
    "pip install OpenEXR, then python -c \"import OpenEXR, numpy; numpy.save('{stem}.npy', "
    "OpenEXR.File('{name}').channels()['Z'].pixels)\" (the depth channel may have another name than Z).",
)
_RAW = Format(
    "raw bytes without a header",
    "python -c \"import numpy; numpy.save('{stem}.npy', numpy.fromfile('{name}', '<u2').reshape(HEIGHT, WIDTH))\" "
    "(for RealSense's Z16; sensor units, as in a PNG).",
)
_HEIC = Format("HEIC", "heif-convert {name} {stem}.png (libheif-examples), or take JPEG pictures.")
_AVIF = Format("AVIF", f"{_PILLOW} (Pillow from 11.3 on)", tried=True)
_JPEG_2000 = Format("JPEG 2000", _PILLOW, tried=True)
_GIF = Format("GIF", _PILLOW, tried=True)
_CAMERA_RAW = Format("a camera's raw format", "dcraw -T {name} makes a TIFF; or take JPEG pictures.")
_VIDEO = Format("a video", "ffmpeg -i {name} {stem}/%05d.png, then give the folder: videos are not read.")
_BAG = Format("a recording of a robot or camera", "export its frames as PNG files first (rs-convert, ros2 bag).")
_ARRAYS = Format("an archive of arrays", "save one array by itself, with numpy.save.", image=False)
_POINTS = Format("a point cloud", "render it to a depth image first.", image=False)
_NPY = Format("a NumPy array", "save color as a PNG of 8 bits; .npy is read as depth.", image=False)
_LFS = Format("a git-lfs pointer, not the file itself", "git lfs pull fetches it.", image=False)
_HTML = Format("an HTML page, not an image", "download the file itself.", image=False)

_SUFFIXES = {
    ".exr": _EXR,
    ".raw": _RAW,
    ".bin": _RAW,
    ".heic": _HEIC,
    ".heif": _HEIC,
    ".hif": _HEIC,
    ".avif": _AVIF,
    ".jp2": _JPEG_2000,
    ".j2k": _JPEG_2000,
    ".gif": _GIF,
    ".bag": _BAG,
    ".db3": _BAG,
    ".mcap": _BAG,
    ".svo": _BAG,
    ".svo2": _BAG,
    ".npz": _ARRAYS,
    ".mat": _ARRAYS,
    ".h5": _ARRAYS,
    ".hdf5": _ARRAYS,
    ".ply": _POINTS,
    ".pcd": _POINTS,
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), _CAMERA_RAW),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mjpeg", ".h264"), _VIDEO),
}
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), _HEIC),
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    b"crx ": _CAMERA_RAW,
}
"""Of an ISO base media file, in which anything else is a film."""
_BEGINNINGS = (
    (b"\x76\x2f\x31\x01", _EXR),
    (b"\0\0\0\x0cjP  ", _JPEG_2000),
    (b"\xff\x4f\xff\x51", _JPEG_2000),
    (b"GIF8", _GIF),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
    (b"#ROSBAG", _BAG),
    (b"\x93NUMPY", _NPY),
    (b"PK\x03\x04", _ARRAYS),
    (b"\x89HDF", _ARRAYS),
    (b"MATLAB", _ARRAYS),
    (b"ply\n", _POINTS),
    (b"# .PCD", _POINTS),
    (b"version https://git-lfs", _LFS),
    (b"<!DOCTYPE", _HTML),
    (b"<html", _HTML),
)


def unread_format(path: Path, data: bytes) -> Format | None:
    """The format of a file, from its first bytes or else its name; None for one that is read, or not known."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], _VIDEO)
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return _VIDEO
    known = next((each for beginning, each in _BEGINNINGS if data.startswith(beginning)), None)
    return known or _SUFFIXES.get(path.suffix.lower())


def unread_image(path: Path) -> Format | None:
    """The format by name alone, where a folder should say that it leaves the file out."""
    known = _SUFFIXES.get(path.suffix.lower())
    return known if known is not None and known.image else None
