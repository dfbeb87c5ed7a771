"""Color images that are damaged, dark or turned: refused or read right, never silently wrong."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cdm_export.runtimes.sources import load_pair, open_source, read_color, read_depth
from parity_tests.frame_files import DEPTH, folder_of, refusal, write

HEIGHT, WIDTH = 96, 128
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
PICTURE = np.dstack([_X * 255 // WIDTH, _Y * 255 // HEIGHT, ((_X // 8 + _Y // 8) % 2) * 180 + 40]).astype(np.uint8)


def jpeg(*options: int) -> bytes:
    return cv2.imencode(".jpg", PICTURE, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])[1].tobytes()


def scans(data: bytes) -> list[int]:
    """Where the scans of a JPEG begin."""
    return [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]


PROGRESSIVE = jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 8)


def half(data: bytes) -> int:
    return len(data) // 2


DAMAGES: dict[str, Callable[[], bytes]] = {
    "cut, with an end marker": lambda: jpeg()[: half(jpeg())] + b"\xff\xd9",
    "nine tenths, with an end marker": lambda: jpeg()[: len(jpeg()) * 9 // 10] + b"\xff\xd9",
    "zeros, with an end marker": lambda: jpeg()[: half(jpeg())] + bytes(half(jpeg()) - 2) + b"\xff\xd9",
    "zeros to the end": lambda: jpeg()[: half(jpeg())] + bytes(half(jpeg())),
    "bit errors": lambda: (
        jpeg()[: half(jpeg())]
        + bytes(value ^ 0x55 for value in jpeg()[half(jpeg()) : half(jpeg()) + 200])
        + jpeg()[half(jpeg()) + 200 :]
    ),
    "progressive, cut inside a scan": lambda: PROGRESSIVE[: half(PROGRESSIVE)] + b"\xff\xd9",
    "progressive, last scans missing": lambda: PROGRESSIVE[: scans(PROGRESSIVE)[2]] + b"\xff\xd9",
    "restart intervals missing": lambda: (
        RESTARTS[: RESTARTS.find(b"\xff\xd2", scans(RESTARTS)[0])]
        + RESTARTS[RESTARTS.find(b"\xff\xd5", scans(RESTARTS)[0]) :]
    ),
    "nothing but zeros": lambda: bytes(5000),
}


class TestJpeg:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_lost_data_is_refused(self, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(DAMAGES[damage]())
        message = refusal(lambda: read_color(path))
        assert message.startswith("a.jpg cannot be read as an image: ") and "copied completely" in message
        assert capfd.readouterr() == ("", ""), "a library printed to the terminal"

    @pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 8),
                                         (cv2.IMWRITE_JPEG_OPTIMIZE, 1)])  # fmt: skip
    @pytest.mark.parametrize("tail", [b"", bytes(3000), b"\xff\xd8\xff\xe1 a second picture"])
    def test_whole_ones_are_read_whatever_follows_them(
        self, tmp_path: Path, options: tuple[int, ...], tail: bytes
    ) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(jpeg(*options) + tail)
        expected = cv2.imdecode(np.frombuffer(jpeg(*options), np.uint8), cv2.IMREAD_COLOR)
        assert expected is not None and np.array_equal(read_color(path)[..., ::-1], expected)

    def test_gray_is_read(self, tmp_path: Path) -> None:
        assert read_color(write(tmp_path / "a.jpg", PICTURE[..., 0])).shape == PICTURE.shape

    def test_a_few_padding_bytes_are_no_loss(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(jpeg()[:-2] + bytes(8) + b"\xff\xd9")
        assert read_color(path).shape == PICTURE.shape

    def test_what_others_write_to_standard_error_is_not_taken_for_damage(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        read_color(write(tmp_path / "a.jpg", PICTURE))
        print("still here", file=sys.stderr, flush=True)
        assert capfd.readouterr().err == "still here\n"


def test_webp_whose_copy_stopped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.webp", np.random.default_rng(0).integers(0, 256, PICTURE.shape, dtype=np.uint8))
    whole = path.read_bytes()
    assert read_color(path).shape == PICTURE.shape
    path.write_bytes(whole[:-1000] + bytes(1000))
    assert "nothing but zeros" in refusal(lambda: read_color(path))
    path.write_bytes(whole[:-1000])
    assert "cut short" in refusal(lambda: read_color(path))


def test_a_header_of_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """Nine bytes of a PNG can ask for gigabytes."""
    data = bytearray(cv2.imencode(".png", PICTURE)[1].tobytes())
    data[16:24] = struct.pack(">II", 30000, 30000)
    (tmp_path / "a.png").write_bytes(bytes(data))
    assert "30000x30000" in refusal(lambda: read_color(tmp_path / "a.png"))


class TestBitDepth:
    @pytest.mark.parametrize("bits", [10, 12, 14])
    def test_fewer_bits_in_16_are_refused_with_the_conversion(
        self, tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(tmp_path / "a.png", PICTURE.astype(np.uint16) << (bits - 8))
        message = refusal(lambda: read_color(path))
        assert "nearly black" in message and "of 65535" in message
        command = message[message.index('"') + 1 : message.rindex('"')]
        monkeypatch.chdir(tmp_path)
        exec(command)
        assert np.abs(read_color(tmp_path / "a.8bit.png").astype(int) - PICTURE).max() <= 1

    def test_16_bits_are_read(self, tmp_path: Path) -> None:
        assert np.array_equal(read_color(write(tmp_path / "a.png", PICTURE.astype(np.uint16) * 257)), PICTURE)
        assert not read_color(write(tmp_path / "b.png", np.zeros((4, 5, 3), np.uint16))).any(), "black at any depth"

    def test_depth_image_as_color(self, tmp_path: Path) -> None:
        for suffix in (".png", ".tiff"):
            path = write(tmp_path / f"d{suffix}", DEPTH)
            message = refusal(lambda: read_color(path))  # noqa: B023 called at once
            assert "depth image, expected a color image" in message and "--depth" in message

    def test_floating_point_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tiff", PICTURE.astype(np.float32) / 255)
        assert "float32" in refusal(lambda: read_color(path))


def tiff(pixels: NDArray[np.generic], orientation: int, big_endian: bool = False) -> bytes:
    """One strip; RGB or a single channel of 16 bits."""
    order = ">" if big_endian else "<"
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    bits = 8 * pixels.dtype.itemsize
    tags = [(256, 4, pixels.shape[1]), (257, 4, pixels.shape[0]), (258, 3, bits), (259, 3, 1),
            (262, 3, 2 if channels == 3 else 1), (273, 4, 0), (274, 3, orientation), (277, 3, channels),
            (278, 4, pixels.shape[0]), (279, 4, len(body))]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, kind, value in tags:
        count = channels if tag == 258 else 1
        if count == 3:
            stored = struct.pack(order + "I", start)
            extra = struct.pack(order + "3H", value, value, value)
        else:
            given = start + 6 * (channels == 3) if tag == 273 else value
            stored = struct.pack(order + ("H" if kind == 3 else "I"), given)
        entries += struct.pack(order + "HHI", tag, kind, count) + stored.ljust(4, b"\0")
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + extra + body


class TestTiffOrientation:
    @pytest.mark.parametrize("big_endian", [False, True])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_beside_depth_neither_is_turned(self, tmp_path: Path, orientation: int, big_endian: bool) -> None:
        color, depth = tmp_path / "c.tif", tmp_path / "d.tif"
        color.write_bytes(tiff(PICTURE, orientation, big_endian))
        numbers = (np.arange(HEIGHT * WIDTH) % 4000 + 500).astype(np.uint16).reshape(HEIGHT, WIDTH)
        depth.write_bytes(tiff(numbers, orientation, big_endian))
        loaded = load_pair("a", color, depth, 1000)
        assert np.array_equal(loaded.frame.rgb, PICTURE)
        assert np.array_equal(loaded.raw_depth, numbers)

    def test_alone_it_is_turned(self, tmp_path: Path) -> None:
        (tmp_path / "c.tif").write_bytes(tiff(PICTURE, 3))
        assert np.array_equal(load_pair("a", tmp_path / "c.tif", None, 1000).frame.rgb, PICTURE[::-1, ::-1])


class TestFolderSaysWhatItLeavesOut:
    def images(self, folder: Path) -> Path:
        for name in ("a.jpg", "b.png"):
            write(folder / name, PICTURE)
        for name in ("c.avif", "d.jp2", "e.gif", "f.HEIC", "g.dng", "notes.txt", ".hidden.gif"):
            (folder / name).write_bytes(b"not looked into")
        return folder

    def test_formats_by_name_with_a_conversion(self, tmp_path: Path) -> None:
        source = open_source(str(self.images(tmp_path)), needs_depth=False)
        assert source.names == ("a", "b")
        said = " ".join(source.left_out)
        for word in ("c.avif", "AVIF", "d.jp2", "JPEG 2000", "e.gif", "GIF", "f.HEIC", "HEIC", "g.dng", "Convert it"):
            assert word in said, said
        assert "notes.txt" not in said and "hidden" not in said
        fitted = open_source(str(tmp_path), needs_depth=False, camera=source.load(0).frame.size)
        assert fitted.left_out == source.left_out

    def test_images_beside_named_frames(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "a")
        write(folder / "extra.png", PICTURE)
        write(folder / "b.color.png", PICTURE)
        source = open_source(str(folder))
        assert source.unpaired == ("b.color.png",)
        assert [text for text in source.left_out if "extra.png" in text and "not named" in text]
        assert "b.color.png" not in " ".join(source.left_out)

    def test_nothing_but_unread_formats(self, tmp_path: Path) -> None:
        (tmp_path / "a.heic").write_bytes(b"x")
        assert "HEIC" in refusal(lambda: open_source(str(tmp_path), needs_depth=False))

    def test_good_folders_say_nothing(self, tmp_path: Path) -> None:
        assert open_source(str(folder_of(tmp_path, "a"))).left_out == ()
        assert open_source("synthetic:1").left_out == ()


def test_depth_read_beside_is_not_affected(tmp_path: Path) -> None:
    assert np.array_equal(read_depth(write(tmp_path / "d.tiff", DEPTH), 1000)[0], DEPTH)
