"""Color and depth images: which files are read, what is said about the rest, and depth that looks wrong."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources import SourceFrame, check_depth, load_pair, open_source, read_color, read_depth
from parity_tests.conftest import SHARED_FRAMES, needs_shared_frames
from parity_tests.frame_files import COLOR, DEPTH, refusal, with_depth, write


class TestColor:
    def test_is_true_rgb_and_exact(self, tmp_path: Path) -> None:
        assert np.array_equal(read_color(write(tmp_path / "a.png", COLOR)), COLOR)

    def test_gray_becomes_rgb_alpha_is_dropped_16_bits_become_8(self, tmp_path: Path) -> None:
        gray = read_color(write(tmp_path / "gray.png", COLOR[..., 0]))
        assert np.array_equal(gray, np.repeat(COLOR[..., :1], 3, axis=2))
        bgra = np.dstack([COLOR[..., ::-1], np.full((12, 16), 7, np.uint8)])
        assert np.array_equal(read_color(write(tmp_path / "alpha.png", bgra)), COLOR)
        wide = read_color(write(tmp_path / "wide.png", COLOR.astype(np.uint16) * 257))
        assert np.array_equal(wide, COLOR)

    def test_letters_beyond_ascii_in_the_path(self, tmp_path: Path) -> None:
        path = write(tmp_path / "Küche 厨房" / "Bild é.png", COLOR)
        assert np.array_equal(read_color(path), COLOR)

    def test_exif_rotation_is_ignored_as_depth_is_not_rotated(self, tmp_path: Path) -> None:
        plain = cv2.imencode(".jpg", COLOR)[1].tobytes()
        tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
        body = b"Exif\0\0" + tiff
        path = tmp_path / "turned.jpg"
        path.write_bytes(plain[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + plain[2:])
        turned = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert turned is not None and turned.shape == (16, 12, 3), "the EXIF header of this test is not one"
        assert read_color(path).shape == (12, 16, 3)

    def test_missing_file_names_its_neighbors(self, tmp_path: Path) -> None:
        write(tmp_path / "frame_01.png", COLOR)
        assert "'frame_01.png'" in refusal(lambda: read_color(tmp_path / "frame_1.png"))
        assert "does not exist" in refusal(lambda: read_color(tmp_path / "nowhere" / "a.png"))

    def test_folder_text_and_empty_file(self, tmp_path: Path) -> None:
        assert "is a folder" in refusal(lambda: read_color(tmp_path))
        (tmp_path / "text.png").write_text("not a picture at all")
        assert "cannot be read as an image" in refusal(lambda: read_color(tmp_path / "text.png"))
        (tmp_path / "empty.png").write_bytes(b"")
        assert "empty" in refusal(lambda: read_color(tmp_path / "empty.png"))

    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
    def test_truncated(self, tmp_path: Path, suffix: str, kept: float, capfd: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / f"a{suffix}", np.repeat(np.repeat(COLOR, 8, 0), 8, 1))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        assert "cut short" in refusal(lambda: read_color(path))
        assert capfd.readouterr().err == "", "OpenCV printed to the terminal"

    def test_flipped_bit_in_png(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "a.png", COLOR)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        assert "checksum" in refusal(lambda: read_color(path))
        assert capfd.readouterr().err == ""

    def test_truncated_tiff_is_quiet(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "a.tiff", DEPTH)
        path.write_bytes(path.read_bytes()[:150])
        refusal(lambda: read_depth(path, 1000))
        assert capfd.readouterr().err == ""


class TestDepth:
    @pytest.mark.parametrize("suffix", [".png", ".tiff"])
    def test_16_bit_image(self, tmp_path: Path, suffix: str) -> None:
        raw, meters = read_depth(write(tmp_path / f"d{suffix}", DEPTH), 5000)
        assert raw.dtype == np.uint16 and np.array_equal(raw, DEPTH)
        assert meters.dtype == np.float32 and np.array_equal(meters, DEPTH.astype(np.float32) / np.float32(5000))

    def test_float_tiff_is_meters(self, tmp_path: Path) -> None:
        truth = (DEPTH / 1000).astype(np.float32)
        assert np.array_equal(read_depth(write(tmp_path / "d.tiff", truth), 1000)[1], truth)

    def test_float_npy_is_meters_and_keeps_what_is_no_reading(self, tmp_path: Path) -> None:
        truth = np.array([[1.5, np.nan, np.inf], [-1.0, 0.0, 1e300]])
        np.save(tmp_path / "d.npy", truth)
        raw, meters = read_depth(tmp_path / "d.npy", 1000)
        assert np.array_equal(raw, truth, equal_nan=True)
        assert meters.dtype == np.float32
        expected = np.array([[1.5, np.nan, np.inf], [-1, 0, np.inf]], np.float32)
        assert np.array_equal(meters, expected, equal_nan=True)

    def test_integer_npy_is_sensor_units(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", DEPTH.astype(np.int32))
        assert np.allclose(read_depth(tmp_path / "d.npy", 1000)[1], DEPTH / 1000)

    def test_8_bit_is_a_visualization(self, tmp_path: Path) -> None:
        message = refusal(lambda: read_depth(write(tmp_path / "d.png", COLOR[..., 0]), 1000))
        assert "8-bit" in message and "visualization" in message and "16-bit" in message

    def test_several_channels(self, tmp_path: Path) -> None:
        message = refusal(lambda: read_depth(write(tmp_path / "d.png", COLOR), 1000))
        assert "3 channels" in message and "single-channel" in message

    @pytest.mark.parametrize("array", [np.ones((2, 3, 4, 5)), np.ones(3), np.ones((2, 3), bool), np.ones((2, 3), "U1")])
    def test_npy_of_another_kind(self, tmp_path: Path, array: NDArray[Any]) -> None:
        np.save(tmp_path / "d.npy", array)
        assert "is not a depth image" in refusal(lambda: read_depth(tmp_path / "d.npy", 1000))

    def test_npy_is_never_unpickled(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        assert "numpy array of numbers" in refusal(lambda: read_depth(tmp_path / "d.npy", 1000))
        (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
        assert "numpy array of numbers" in refusal(lambda: read_depth(tmp_path / "cut.npy", 1000))

    def test_size_mismatch_names_frame_and_both_sizes(self, tmp_path: Path) -> None:
        color, depth = write(tmp_path / "c.png", COLOR), write(tmp_path / "d.png", DEPTH[:6])
        message = refusal(lambda: load_pair("kitchen", color, depth, 1000))
        assert message.startswith("kitchen: ") and "16x12" in message and "[6, 16]" in message

    def test_pair_knows_its_scale(self, tmp_path: Path) -> None:
        color = write(tmp_path / "c.png", COLOR)
        assert load_pair("a", color, write(tmp_path / "d.png", DEPTH), 5000).depth_scale == 5000
        np.save(tmp_path / "d.npy", DEPTH / 1000)
        assert load_pair("a", color, tmp_path / "d.npy", 5000).depth_scale == 1
        assert load_pair("a", color, None, 5000).raw_depth is None


class TestDepthCheck:
    def test_good_depth_and_no_depth_are_silent(self) -> None:
        assert check_depth(with_depth(DEPTH, 1000), 6) == []
        assert check_depth(SourceFrame("f", Frame(COLOR)), 6) == []

    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
    def test_no_reading_is_refused(self, value: float) -> None:
        assert "no pixel" in refusal(lambda: check_depth(with_depth(np.full((4, 5), value), 1), 6))

    def test_tenths_of_a_millimeter_read_as_millimeters(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 15628, np.uint16), 1000), 6)
        assert "0% of the readings" in warning and "at --depth-scale 1000 (median 15.6 m)" in warning
        assert "--depth-scale 10000 would give a median of 1.56 m" in warning

    def test_far_too_near(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 500, np.uint16), 10000), 6)
        assert "--depth-scale 256 would give a median of 1.95 m" in warning

    def test_millimeters_in_a_float_file(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 1800.0, np.float32), 1), 6)
        assert "read as meters" in warning and "divided by 1000, the median would be 1.8 m" in warning

    def test_no_scale_helps(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 2**31, np.int64), 1000), 6)
        assert "would" not in warning

    @needs_shared_frames
    @pytest.mark.parametrize(("name", "right"), [("cdm_26", 10000), ("tum_0", 5000)])
    def test_real_frames_in_another_unit(self, name: str, right: int) -> None:
        source = open_source(str(SHARED_FRAMES))
        (warning,) = check_depth(source.load(source.names.index(name)), 6)
        assert warning.index(f"--depth-scale {right} ") == warning.index("; ") + 2, "the right scale comes first"
        source = open_source(str(SHARED_FRAMES), depth_scale=right)
        assert check_depth(source.load(source.names.index(name)), 6) == []
