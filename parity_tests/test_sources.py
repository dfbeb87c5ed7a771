"""Frame sources: what they accept, what they say about the rest, and that rendered scenes are true."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtimes.contract import Size
from runtimes.errors import InputError
from runtimes.frame import Frame
from runtimes.sources import (
    SourceFrame,
    check_depth,
    fit_frame,
    frames,
    load_pair,
    open_source,
    read_color,
    read_depth,
    sample_truth,
)
from runtimes.sources.fit import crop
from runtimes.sources.raycast import Camera, Solid, render
from runtimes.sources.scenes import rotation
from runtimes.sources.sensor_noise import D435, L515, hide_regions, simulate_sensor, smooth_noise
from runtimes.sources.synthetic import SyntheticSource

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "rgbd"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared RGB-D frames are not here")

WHITE, BLACK = ((1.0, 1.0, 1.0),) * 2, ((0.0, 0.0, 0.0),) * 2
PINNED = [1.786733, 0.714378, 1.579788, 0.442260]
"""Mean and deviation of the true depth, mean sensor depth (m), mean colour (0..1) of synthetic:1:0 at 160x120."""

RNG = np.random.default_rng(3)
COLOR = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
DEPTH = RNG.integers(500, 4000, (12, 16), dtype=np.uint16)


def write(path: Path, image: NDArray[Any]) -> Path:
    """RGB or single-channel ``image`` in the format of the suffix, at any path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(stored))[1].tobytes())
    return path


def folder_of(folder: Path, *stems: str) -> Path:
    for stem in stems:
        write(folder / f"{stem}.color.png", COLOR)
        write(folder / f"{stem}.depth.png", DEPTH)
    return folder


def raw_of(loaded: SourceFrame) -> NDArray[Any]:
    assert loaded.raw_depth is not None
    return loaded.raw_depth


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


class TestColor:
    def test_is_true_rgb_and_exact(self, tmp_path: Path) -> None:
        assert np.array_equal(read_color(write(tmp_path / "a.png", COLOR)), COLOR)

    def test_grey_becomes_rgb_alpha_is_dropped_16_bits_become_8(self, tmp_path: Path) -> None:
        grey = read_color(write(tmp_path / "grey.png", COLOR[..., 0]))
        assert np.array_equal(grey, np.repeat(COLOR[..., :1], 3, axis=2))
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

    def test_missing_file_names_its_neighbours(self, tmp_path: Path) -> None:
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
        raw, metres = read_depth(write(tmp_path / f"d{suffix}", DEPTH), 5000)
        assert raw.dtype == np.uint16 and np.array_equal(raw, DEPTH)
        assert metres.dtype == np.float32 and np.array_equal(metres, DEPTH.astype(np.float32) / np.float32(5000))

    def test_float_tiff_is_metres(self, tmp_path: Path) -> None:
        truth = (DEPTH / 1000).astype(np.float32)
        assert np.array_equal(read_depth(write(tmp_path / "d.tiff", truth), 1000)[1], truth)

    def test_float_npy_is_metres_and_keeps_what_is_no_reading(self, tmp_path: Path) -> None:
        truth = np.array([[1.5, np.nan, np.inf], [-1.0, 0.0, 1e300]])
        np.save(tmp_path / "d.npy", truth)
        raw, metres = read_depth(tmp_path / "d.npy", 1000)
        assert np.array_equal(raw, truth, equal_nan=True)
        assert metres.dtype == np.float32
        expected = np.array([[1.5, np.nan, np.inf], [-1, 0, np.inf]], np.float32)
        assert np.array_equal(metres, expected, equal_nan=True)

    def test_integer_npy_is_sensor_units(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", DEPTH.astype(np.int32))
        assert np.allclose(read_depth(tmp_path / "d.npy", 1000)[1], DEPTH / 1000)

    def test_8_bit_is_a_visualisation(self, tmp_path: Path) -> None:
        message = refusal(lambda: read_depth(write(tmp_path / "d.png", COLOR[..., 0]), 1000))
        assert "8-bit" in message and "visualisation" in message and "16-bit" in message

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


def with_depth(raw: NDArray[Any], scale: float) -> SourceFrame:
    metres = (raw / scale).astype(np.float32)
    return SourceFrame("f", Frame(np.zeros((*raw.shape, 3), np.uint8), metres), raw, scale)


class TestDepthCheck:
    def test_good_depth_and_no_depth_are_silent(self) -> None:
        assert check_depth(with_depth(DEPTH, 1000), 6) == []
        assert check_depth(SourceFrame("f", Frame(COLOR)), 6) == []

    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
    def test_no_reading_is_refused(self, value: float) -> None:
        assert "no pixel" in refusal(lambda: check_depth(with_depth(np.full((4, 5), value), 1), 6))

    def test_tenths_of_a_millimetre_read_as_millimetres(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 15628, np.uint16), 1000), 6)
        assert "0% of the readings" in warning and "at --depth-scale 1000 (median 15.6 m)" in warning
        assert "--depth-scale 10000 would give a median of 1.56 m" in warning

    def test_far_too_near(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 500, np.uint16), 10000), 6)
        assert "--depth-scale 256 would give a median of 1.95 m" in warning

    def test_millimetres_in_a_float_file(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 1800.0, np.float32), 1), 6)
        assert "read as metres" in warning and "divided by 1000, the median would be 1.8 m" in warning

    def test_no_scale_helps(self) -> None:
        (warning,) = check_depth(with_depth(np.full((4, 5), 2**31, np.int64), 1000), 6)
        assert "would" not in warning

    @needs_shared
    @pytest.mark.parametrize(("name", "right"), [("cdm_26", 10000), ("tum_0", 5000)])
    def test_real_frames_in_another_unit(self, name: str, right: int) -> None:
        source = open_source(str(SHARED))
        (warning,) = check_depth(source.load(source.names.index(name)), 6)
        assert warning.index(f"--depth-scale {right} ") == warning.index("; ") + 2, "the right scale comes first"
        source = open_source(str(SHARED), depth_scale=right)
        assert check_depth(source.load(source.names.index(name)), 6) == []


class TestFolder:
    def test_pairs_in_natural_order(self, tmp_path: Path) -> None:
        source = open_source(str(folder_of(tmp_path, "f10", "f2", "f1")))
        assert source.names == ("f1", "f2", "f10") and len(source) == 3 and source.unpaired == ()
        for _ in range(2):
            loaded = list(frames(source))
            assert [each.name for each in loaded] == ["f1", "f2", "f10"]
        assert np.array_equal(loaded[0].frame.rgb, COLOR)
        assert str(tmp_path) not in source.description and "3 frames" in source.description

    def test_case_formats_and_hidden_files(self, tmp_path: Path) -> None:
        write(tmp_path / "A.Color.JPG", COLOR)
        np.save(tmp_path / "A.Depth.npy", DEPTH / 1000)
        (tmp_path / "._A.color.jpg").write_bytes(b"macOS")
        (tmp_path / "A.depth.txt").write_text("notes")
        assert open_source(str(tmp_path)).names == ("A",)

    @pytest.mark.parametrize("color_folder", ["rgb", "color"])
    def test_subfolders(self, tmp_path: Path, color_folder: str) -> None:
        for stem in ("0001", "0002"):
            write(tmp_path / color_folder / f"{stem}.jpg", COLOR)
            write(tmp_path / "depth" / f"{stem}.png", DEPTH)
        write(tmp_path / color_folder / "0003.jpg", COLOR)
        source = open_source(str(tmp_path))
        assert source.names == ("0001", "0002") and source.unpaired == (f"{color_folder}/0003.jpg",)

    def test_unpaired_are_listed(self, tmp_path: Path) -> None:
        write(folder_of(tmp_path, "a") / "b.color.png", COLOR)
        write(tmp_path / "c.depth.png", DEPTH)
        assert open_source(str(tmp_path)).unpaired == ("b.color.png", "c.depth.png")

    def test_nothing_pairs(self, tmp_path: Path) -> None:
        assert "no file named as a frame" in refusal(lambda: open_source(str(tmp_path)))
        write(tmp_path / "b.color.png", COLOR)
        write(tmp_path / "c.depth.png", DEPTH)
        message = refusal(lambda: open_source(str(tmp_path)))
        assert "b.color.png, c.depth.png" in message and "frames.json" in message

    def test_two_files_for_one_place(self, tmp_path: Path) -> None:
        write(folder_of(tmp_path, "a") / "a.color.jpg", COLOR)
        message = refusal(lambda: open_source(str(tmp_path)))
        assert "a.color.jpg" in message and "a.color.png" in message

    def test_a_broken_second_frame_does_not_take_the_others_along(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "f1", "f2", "f3")
        (folder / "f2.depth.png").write_bytes((folder / "f2.depth.png").read_bytes()[:60])
        source = open_source(str(folder))
        good, bad = [], []
        for index, name in enumerate(source.names):
            try:
                good.append(source.load(index).name)
            except InputError as error:
                bad.append((name, str(error)))
        assert good == ["f1", "f3"]
        assert bad[0][0] == "f2" and bad[0][1].startswith("f2: f2.depth.png cannot be read") and len(bad) == 1
        walk = frames(source)
        assert next(walk).name == "f1"
        assert "f2" in refusal(lambda: next(walk))

    @needs_shared
    def test_real_frames(self) -> None:
        source = open_source(str(SHARED))
        redwood = source.load(source.names.index("redwood_0"))
        assert redwood.frame.size == Size(640, 480) and redwood.raw_depth is not None
        assert redwood.raw_depth.dtype == np.uint16
        assert check_depth(redwood, 6) == []


class TestFramesJson:
    def listed(self, folder: Path, content: Any) -> Path:
        path = folder_of(folder, "a", "b") / "frames.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def test_scales_names_and_paths(self, tmp_path: Path) -> None:
        entries = [
            {"color": "a.color.png", "depth": "a.depth.png"},
            {"color": str(tmp_path / "b.color.png"), "depth": "b.depth.png", "depth_scale": 4000, "name": "second"},
            {"color": "b.color.png"},
        ]
        path = self.listed(tmp_path, {"frames": entries, "depth_scale": 2000})
        for text in (str(path), str(tmp_path)):
            source = open_source(text, depth_scale=1000)
            assert source.names == ("a", "second", "b")
            assert [each.depth_scale for each in frames(source)] == [2000, 4000, 1]
        del entries[1:]
        source = open_source(str(self.listed(tmp_path, {"frames": entries})), depth_scale=3000)
        assert source.load(0).depth_scale == 3000

    def test_dots_in_stems_are_kept(self, tmp_path: Path) -> None:
        entries = [{"color": "rgb/1305031102.175304.png"}, {"color": "rgb/1305031102.211214.png"}]
        assert len(set(open_source(str(self.listed(tmp_path, {"frames": entries}))).names)) == 2

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("{", "Invalid JSON"),
            ({"frames": []}, "frames: "),
            ({"frames": [{"color": "a.png"}, {"depth": "a.png"}]}, "frames[1].color: Field required"),
            ({"frames": [{"color": "a.png", "scale": 3}]}, "frames[0].scale: "),
            ({"frames": [{"color": "a.png", "depth_scale": 0}]}, "frames[0].depth_scale: "),
            ({"frames": [{"color": "a.png", "name": "../../a"}]}, "frames[0].name: "),
            ({"frames": [{"color": "a.png"}, {"color": "a.jpg"}]}, "2 frames are called 'a'"),
            ('{"frames": [{"color": "a.png"}], "depth_scale": NaN}', "depth_scale: "),
        ],
    )
    def test_refusals_name_the_place(self, tmp_path: Path, content: Any, said: str) -> None:
        message = refusal(lambda: open_source(str(self.listed(tmp_path, content))))
        assert "frames.json" in message and said in message

    def test_missing_image_is_found_when_loaded(self, tmp_path: Path) -> None:
        source = open_source(str(self.listed(tmp_path, {"frames": [{"color": "a.colour.png"}]})))
        assert "Did you mean 'a.color.png'" in refusal(lambda: source.load(0))


class TestOpenSource:
    @pytest.mark.parametrize("text", ["synthetc:4", "sampel", "nowhere/at/all"])
    def test_unknown(self, text: str) -> None:
        message = refusal(lambda: open_source(text))
        assert text in message and "synthetic:N[:SEED]" in message

    def test_help(self, tmp_path: Path) -> None:
        assert "Did you mean 'sample'" in refusal(lambda: open_source("sampel"))
        (tmp_path / "kitchen").mkdir()
        assert "Did you mean 'kitchen'" in refusal(lambda: open_source(str(tmp_path / "kitchn")))
        image = write(tmp_path / "a.png", COLOR)
        assert "--input" in refusal(lambda: open_source(str(image)))

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
    def test_depth_scale(self, scale: float) -> None:
        assert "depth scale" in refusal(lambda: open_source("sample", depth_scale=scale))
        assert "depth scale" in refusal(lambda: read_depth(Path("unread.png"), scale))

    def test_another_size_is_refused_with_both_sizes_or_fitted(self, tmp_path: Path) -> None:
        folder = str(folder_of(tmp_path, "a"))
        assert open_source(folder, camera=Size(16, 12)).load(0).frame.size == Size(16, 12)
        source = open_source(folder, camera=Size(8, 8))
        message = refusal(lambda: source.load(0))
        assert "16x12" in message and "8x8" in message and "--fit" in message
        fitted = open_source(folder, camera=Size(8, 8), fit=True)
        assert fitted.load(0).frame.size == Size(8, 8) and "fitted to 8x8" in fitted.description


SIDES = st.integers(1, 40)


class TestFit:
    @given(SIDES, SIDES, SIDES, SIDES)
    def test_window_is_centred_and_as_large_as_can_be(self, w: int, h: int, cw: int, ch: int) -> None:
        rows, columns = crop(Size(w, h), Size(cw, ch))
        for window, length in ((rows, h), (columns, w)):
            before, after = window.start, length - window.stop
            assert 0 <= before <= after <= before + 1
        assert rows == slice(0, h) or columns == slice(0, w)
        kept_w, kept_h = columns.stop - columns.start, rows.stop - rows.start
        assert abs(kept_w - max(1, kept_h * cw / ch)) <= max(1, cw / ch) or kept_w == w

    @settings(max_examples=40, deadline=None)
    @given(SIDES, SIDES, st.sampled_from([np.uint16, np.int32, np.float64]))
    def test_no_depth_is_invented(self, width: int, height: int, dtype: Any) -> None:
        fitted = fit_frame(with_depth(DEPTH.astype(dtype), 1000), Size(width, height))
        assert fitted.frame.size == Size(width, height)
        assert fitted.raw_depth is not None and fitted.frame.depth is not None
        assert fitted.raw_depth.dtype == dtype and np.isin(fitted.raw_depth, DEPTH).all()
        assert np.array_equal(fitted.frame.depth, (fitted.raw_depth / 1000).astype(np.float32))

    def test_colour_and_depth_stay_together(self) -> None:
        ramp = np.arange(64, dtype=np.uint8) * 3
        rgb = np.repeat(np.broadcast_to(ramp, (48, 64))[..., None], 3, axis=2)
        frame = Frame(np.ascontiguousarray(rgb), rgb[..., 0].astype(np.float32))
        for camera in (Size(32, 16), Size(160, 90), Size(20, 40)):
            fitted = fit_frame(SourceFrame("f", frame, rgb[..., 0], 1), camera).frame
            assert fitted.depth is not None
            assert np.abs(fitted.rgb[..., 0].astype(float) - fitted.depth)[:, 2:-2].max() <= 5

    def test_depth_may_be_absent(self) -> None:
        assert fit_frame(SourceFrame("f", Frame(COLOR)), Size(4, 4)).frame.depth is None


class TestRaycast:
    """Depth against geometry worked out by hand, for a camera whose middle ray is the optical axis."""

    CAMERA = Camera(Size(65, 49), 40.0, np.eye(3))

    def depth_of(self, solid: Solid) -> NDArray[np.float32]:
        return render([solid], self.CAMERA, (0, -2, 0))[1]

    def test_depth_is_along_the_axis_not_along_the_ray(self) -> None:
        wall = self.depth_of(Solid((0, 0, 3.5), (9, 9, 0.5), WHITE))
        assert np.allclose(wall, 3, rtol=1e-6)
        room = self.depth_of(Solid((0, 0, 0), (9, 9, 4), WHITE))
        assert np.allclose(room, 4, rtol=1e-6), "from within, the far side is seen"

    def test_a_turned_wall_has_linear_inverse_depth(self) -> None:
        inverse = 1 / self.depth_of(Solid((0, 0, 3), (9, 9, 0.5), WHITE, axes=rotation(0.4, 0.2, 0.1)))
        for axis in (0, 1):
            assert np.abs(np.diff(inverse, n=2, axis=axis)).max() < 1e-6
            assert np.abs(np.diff(inverse, axis=axis)).min() > 1e-4

    def test_ellipsoid(self) -> None:
        ball = self.depth_of(Solid((0, 0, 2), (0.5, 0.5, 0.25), WHITE, shape="ellipsoid"))
        assert ball[24, 32] == pytest.approx(1.75, rel=1e-6)
        assert ball[0, 0] == 0 and np.array_equal(ball, ball[::-1, ::-1])
        assert (ball > 0).sum() == pytest.approx(np.pi * (40 * 0.5 / 2) ** 2, rel=0.1)

    def test_cylinder(self) -> None:
        can = self.depth_of(Solid((0, 0, 2), (0.5, 0.25, 0.5), WHITE, shape="cylinder"))
        assert can[24, 32] == pytest.approx(1.5, rel=1e-6)
        assert np.allclose(can[24], can[22], rtol=1e-6) and (can[:, 32] > 0).sum() == pytest.approx(
            40 * 0.5 / 1.5, abs=1
        )
        lying = self.depth_of(
            Solid((0, 0, 2), (0.5, 0.25, 0.5), WHITE, axes=rotation(0, np.pi / 2, 0), shape="cylinder")
        )
        assert lying[24, 32] == pytest.approx(1.75, rel=1e-5), "its flat end, seen from the front"

    def test_only_pixels_in_its_window_are_computed(self) -> None:
        turned = Solid((0.2, -0.1, 2), (0.3, 0.2, 0.1), WHITE, axes=rotation(0.4, 0.3, 0.7))
        rows, columns = self.CAMERA.window(turned)
        depth = self.depth_of(turned)
        inside = np.zeros(depth.shape, bool)
        inside[rows, columns] = True
        assert (depth[~inside] == 0).all() and 0 < (depth > 0).sum() < inside.sum() < depth.size / 2

    def test_shadow_and_highlight(self) -> None:
        floor = Solid((0, 1, 3), (9, 0.1, 9), WHITE, "plain")
        plate = Solid((0, 0, 3), (0.3, 0.01, 0.3), WHITE)
        lamp = (0.0, -1.0, 3.0)
        (open_floor, _), (shaded, _) = render([floor], self.CAMERA, lamp), render([floor, plate], self.CAMERA, lamp)
        below = 24 + round(40 * 0.9 / 3)
        assert shaded[below, 32].max() < 0.6 * open_floor[below, 32].min()
        assert np.array_equal(shaded[-1, 0], open_floor[-1, 0])
        glossy = render([replace(floor, gloss=1.0)], self.CAMERA, lamp)[0]
        assert glossy.astype(int).sum() > open_floor.astype(int).sum()

    def test_the_nearest_wins_and_the_lit_side_is_brighter(self) -> None:
        ball, wall = Solid((0, 0, 2), (0.5, 0.5, 0.5), WHITE, shape="ellipsoid"), Solid((0, 0, 4), (9, 9, 0.1), BLACK)
        for solids in ([ball, wall], [wall, ball]):
            rgb, depth = render(solids, self.CAMERA, (0, -3, 1))
            assert depth[24, 32] == pytest.approx(1.5, rel=1e-6) and depth[0, 0] == pytest.approx(3.9, rel=1e-6)
            assert rgb[18, 32].min() > rgb[30, 32].max() > 0 and rgb[0, 0].max() == 0


class TestSynthetic:
    @pytest.mark.parametrize("text", ["synthetic", "synthetic:", "synthetic:0", "synthetic:-1", "synthetic:2:x"])
    def test_refusals(self, text: str) -> None:
        assert "synthetic:N" in refusal(lambda: open_source(text))

    def test_size_and_count(self) -> None:
        assert open_source("synthetic:1").load(0).frame.size == Size(640, 480)
        assert len(open_source("synthetic:99999")) == 99999
        assert open_source("synthetic:2:5", camera=Size(32, 24)).description == "synthetic:2:5 at 32x24"

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 10**6))
    def test_any_size(self, width: int, height: int, seed: int) -> None:
        source = SyntheticSource(1, seed, Size(width, height))
        loaded, truth = source.load(0), source.truth(0)
        assert loaded.frame.size == Size(width, height) and truth.shape == (height, width)
        assert loaded.raw_depth is not None and loaded.raw_depth.dtype == np.uint16
        assert np.isfinite(truth).all() and truth.min() >= 0.2 and truth.max() <= 6

    def test_a_frame_depends_on_seed_and_index_only(self) -> None:
        size = Size(48, 36)
        once, more = SyntheticSource(3, 7, size), SyntheticSource(9, 7, size)
        last, first = once.load(2), once.load(0)
        assert np.array_equal(last.frame.rgb, more.load(2).frame.rgb)
        assert np.array_equal(raw_of(last), raw_of(more.load(2)))
        assert not np.array_equal(raw_of(last), raw_of(first))
        assert not np.array_equal(raw_of(first), raw_of(SyntheticSource(3, 8, size).load(0)))

    def test_pinned(self) -> None:
        """Figures of one frame, with room for the last bit of another machine's libm; changing them is a decision."""
        loaded, truth = SyntheticSource(1, 0, Size(160, 120)).load(0), SyntheticSource(1, 0, Size(160, 120)).truth(0)
        assert loaded.raw_depth is not None
        figures = [truth.mean(), truth.std(), loaded.raw_depth.mean() / 1000, loaded.frame.rgb.mean() / 255]
        assert figures == pytest.approx(PINNED, rel=2e-4)

    def test_looks_like_a_depth_camera(self) -> None:
        for index in range(4):
            source = SyntheticSource(4, 1, Size(320, 240))
            loaded, truth = source.load(index), source.truth(index)
            assert loaded.frame.depth is not None
            valid = loaded.frame.depth > 0
            assert 0.02 < 1 - valid.mean() < 0.25
            error = np.abs(loaded.frame.depth - truth)[valid]
            assert 0.003 < np.median(error) < 0.05
            assert loaded.frame.rgb.std() > 20, "a scene has contrast"
            assert check_depth(loaded, 6) == []

    def test_rotation_is_one(self) -> None:
        turn = rotation(0.3, -0.7, 1.1)
        assert np.allclose(turn @ turn.T, np.eye(3)) and np.isclose(np.linalg.det(turn), 1)
        assert rotation(0, 0.5, 0)[1, 2] > 0, "positive pitch looks down, y points down"


class TestSensorNoise:
    def test_error_grows_with_the_square_of_the_distance(self) -> None:
        spread = {}
        for metres in (1.0, 2.0, 4.0):
            raw = simulate_sensor(np.full((200, 200), metres, np.float32), 400, np.random.default_rng(0))
            spread[metres] = float(np.std(raw[raw > 0] / 1000))
        assert spread[2] / spread[1] == pytest.approx(4, rel=0.15)
        assert spread[4] / spread[2] == pytest.approx(4, rel=0.15)
        assert spread[2] == pytest.approx(2**2 * 0.08 / (430 * 0.05), rel=0.15)

    def test_shadow_is_left_of_what_stands_out(self) -> None:
        scene = np.full((100, 200), 3, np.float32)
        scene[:, 100:130] = 1
        raw = simulate_sensor(scene, 400, np.random.default_rng(0))
        shadow = 400 * 0.05 * (1 / 1 - 1 / 3)
        holes = (raw == 0).mean(axis=0)
        assert shadow == pytest.approx(13.3, abs=0.1)
        assert holes[90:97].min() > 0.9 and holes[134:160].max() < 0.5

    def test_unknown_and_too_near_have_no_reading(self) -> None:
        for metres in (0.0, 0.1):
            assert not simulate_sensor(np.full((20, 300), metres, np.float32), 100, np.random.default_rng(0)).any()

    def test_lidar_errs_in_range(self) -> None:
        spread = {}
        for metres in (1.0, 4.0):
            depth = np.full((200, 200), metres, np.float32)
            raw = simulate_sensor(depth, 400, np.random.default_rng(0), camera=L515)
            spread[metres] = float(np.std(raw[raw > 0] / 1000))
        assert spread[1] == pytest.approx(0.0026, rel=0.15) and spread[4] == pytest.approx(0.0074, rel=0.15)

    def test_lidar_has_no_shadow_and_reads_something_between_at_edges(self) -> None:
        scene = np.full((100, 200), 3, np.float32)
        scene[:, 100:130] = 1
        raw = simulate_sensor(scene, 400, np.random.default_rng(0), camera=L515)
        assert (raw[:, 90:97] == 0).mean() < 0.3
        between = (raw > 1200) & (raw < 2800)
        assert between[:, 96:104].any() and not between[:, :90].any()

    def test_dark_shining_and_grazing_surfaces_are_lost(self) -> None:
        depth, grey = np.full((200, 200), 1.5, np.float32), np.full((200, 200, 3), 128, np.uint8)

        def lost(rgb: NDArray[np.uint8], depth: NDArray[np.float32] = depth) -> list[float]:
            rng = np.random.default_rng
            return [
                float((simulate_sensor(depth, 400, rng(0), rgb, c)[20:-20, 40:-20] == 0).mean()) for c in (D435, L515)
            ]

        usual = lost(grey)
        assert max(usual) < 0.05
        assert lost(np.zeros_like(grey))[1] > 0.4 > lost(np.zeros_like(grey))[0] > usual[0]
        assert min(lost(np.full_like(grey, 255))) > 0.5
        floor = np.broadcast_to(400 * 0.1 / np.linspace(5, 40, 200, dtype=np.float32)[:, None], (200, 200))
        assert lost(grey, np.ascontiguousarray(floor))[1] > 3 * usual[1]

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
    def test_hidden_regions(self, share: float) -> None:
        raw = np.full((120, 160), 1000, np.uint16)
        hidden = hide_regions(raw, np.random.default_rng(0), share)
        assert raw.all() and np.isin(hidden, (0, 1000)).all()
        assert share <= (hidden == 0).mean() <= share + 0.36, "the last region may be the largest"
        if not share:
            assert hidden.all()

    def test_noise_is_standard(self) -> None:
        noise = smooth_noise((400, 400), 4, np.random.default_rng(0))
        assert noise.dtype == np.float32
        assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.05)


class TestSample:
    def test_frame_and_truth(self) -> None:
        pytest.importorskip("skimage")
        source = open_source("sample")
        loaded, truth = source.load(0), sample_truth()
        assert len(source) == 1 and loaded.frame.size == Size(741, 500) and truth.shape == (500, 741)
        known = truth > 0
        assert truth[known].min() == pytest.approx(2.110, abs=1e-3) and truth.max() == pytest.approx(5.017, abs=1e-3)
        assert loaded.raw_depth is not None and loaded.raw_depth.dtype == np.uint16 and loaded.depth_scale == 1000
        valid = loaded.raw_depth > 0
        assert 0.75 < valid.mean() < 0.9
        assert 0.01 < np.median(np.abs(loaded.raw_depth / 1000 - truth)[valid & known]) < 0.04
        assert np.array_equal(loaded.raw_depth, raw_of(source.load(0)))
        assert check_depth(loaded, 6) == []

    def test_always_fitted(self) -> None:
        pytest.importorskip("skimage")
        loaded = open_source("sample", camera=Size(320, 240)).load(0)
        assert loaded.frame.size == Size(320, 240) and sample_truth(Size(320, 240)).shape == (240, 320)

    def test_without_scikit_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "skimage.data", None)
        assert "pip install 'cdm-export[export]'" in refusal(lambda: open_source("sample").load(0))
