"""Stereo pairs in sources: layouts, calibrations that belong to their images, and nothing dropped in silence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cdm_export.cli.run import _source
from cdm_export.predict.unused_options import check_pair
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.calibration import Intrinsics, StereoCalibration
from cdm_export.runtimes.calibration_files import own, write_calibration
from cdm_export.runtimes.contract import Semantics, Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import DepthResult, Frame, Health, Timing
from cdm_export.runtimes.metric_scale import CalibratedPair, to_meters
from cdm_export.runtimes.sources import MirroredSource, Reading, SourceFrame, fit_frame, open_source, sample_truth
from cdm_export.runtimes.sources.fit import crop, fit_calibration
from cdm_export.runtimes.sources.synthetic import SyntheticSource
from parity_tests.conftest import CAMERA, SHARED_FRAMES
from parity_tests.frame_files import COLOR, DEPTH, RNG, refusal, write

RIGHT = RNG.integers(0, 256, COLOR.shape, dtype=np.uint8)
EYE = Intrinsics(20.0, 20.0, 7.5, 5.5, 16, 12)
PAIR = StereoCalibration(EYE, replace(EYE, cx=9.5), baseline=0.1)
STEREO_DATA = SHARED_FRAMES.parent / "stereo"

LAYOUTS = {
    "suffixes": ("{}.left.png", "{}.right.png", "{}.depth.png"),
    "color-suffix": ("{}.color.png", "{}.right.png", "{}.depth.png"),
    "left-right": ("left/{}.png", "right/{}.png", "depth/{}.png"),
    "kitti": ("image_2/{}.png", "image_3/{}.png", "depth/{}.png"),
    "rgb": ("rgb/{}.png", "right/{}.png", "depth/{}.png"),
}
EACH = pytest.mark.parametrize("layout", LAYOUTS)


def folder_of_pairs(folder: Path, *stems: str, layout: str = "suffixes", depth: bool = False) -> Path:
    left, right, of_left = LAYOUTS[layout]
    for stem in stems:
        write(folder / left.format(stem), COLOR)
        write(folder / right.format(stem), RIGHT)
        if depth:
            write(folder / of_left.format(stem), DEPTH)
    return folder


def pairs_in(folder: Path, **given: Any) -> Any:
    return open_source(str(folder), needs_depth=False, needs_right=True, **given)


def images_in(folder: Path, **given: Any) -> Any:
    return open_source(str(folder), needs_depth=False, **given)


# --- layouts ----------------------------------------------------------------------------------------------------------


@EACH
def test_layouts(layout: str, tmp_path: Path) -> None:
    source = pairs_in(folder_of_pairs(tmp_path, "b10", "b2", layout=layout, depth=True))
    assert source.names == ("b2", "b10") and source.unpaired == () and source.left_out == ()
    loaded = source.load(0)
    assert np.array_equal(loaded.frame.rgb, COLOR) and np.array_equal(loaded.frame.right, RIGHT)
    assert np.array_equal(loaded.raw_depth, DEPTH) and loaded.notes == ()
    assert len(source.files) == 6


@EACH
def test_a_model_of_one_image_takes_the_left_ones_and_that_is_said(layout: str, tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path, "a", "b", layout=layout, depth=True)
    for source in (images_in(folder), open_source(str(folder))):
        frame = source.load(0).frame
        assert np.array_equal(frame.rgb, COLOR) and frame.right is None and frame.depth is not None
        assert source.left_out == ("left out: the right images of 2 pair(s): the model reads one image",)


@EACH
def test_what_lacks_its_partner_is_named(layout: str, tmp_path: Path) -> None:
    folder = folder_of_pairs(tmp_path, "a", layout=layout)
    left, right, _ = LAYOUTS[layout]
    write(folder / left.format("b"), COLOR)
    write(folder / right.format("c"), RIGHT)
    source = pairs_in(folder)
    assert source.names == ("a",) and set(source.unpaired) == {left.format("b"), right.format("c")}
    (folder / right.format("a")).unlink()
    message = refusal(lambda: pairs_in(folder))
    assert "no pair of images" in message and "nothing pairs among" in message and left.format("b") in message


def test_a_folder_of_single_images_has_no_pair(tmp_path: Path) -> None:
    write(tmp_path / "a.png", COLOR)
    message = refusal(lambda: pairs_in(tmp_path))
    assert "no pair of images" in message and "a.png, not named as the left or right image" in message
    assert "--side-by-side" in message


def test_infrared_pairs_beside_color(tmp_path: Path) -> None:
    """As depth cameras record them: depth is aligned to color, and the pair has eyes of its own."""
    for name, image in (("color", COLOR), ("depth", DEPTH), ("left", COLOR[::-1]), ("right", RIGHT)):
        write(tmp_path / f"a.{name}.png", image)
    pair = pairs_in(tmp_path)
    frame = pair.load(0).frame
    assert np.array_equal(frame.rgb, COLOR[::-1]) and frame.depth is None
    assert "a.color.png" in pair.left_out[0] and "a.depth.png" in pair.left_out[0]
    single = open_source(str(tmp_path))
    assert np.array_equal(single.load(0).frame.rgb, COLOR) and single.load(0).frame.depth is not None
    assert "a.left.png" in single.left_out[0]


def test_two_folders_of_left_images(tmp_path: Path) -> None:
    for name in ("left", "right", "rgb"):
        write(tmp_path / name / "a.png", COLOR)
    assert pairs_in(tmp_path).left_out == ("left out: the images in rgb/; those in left/ are used",)
    assert images_in(tmp_path).left_out[0] == "left out: the images in left/; those in rgb/ are used"


def test_images_of_two_sizes(tmp_path: Path) -> None:
    write(tmp_path / "a.left.png", COLOR)
    write(tmp_path / "a.right.png", RIGHT[:, :-2])
    assert "a: the images of a pair differ in size: right is 14x12" in refusal(lambda: pairs_in(tmp_path).load(0))


# --- calibrations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calib.txt", "calibration.json", "camera_info.yaml", "camera_intrinsic.json"])
def test_a_calibration_is_found(name: str, tmp_path: Path) -> None:
    """The content says what it is, whatever the name."""
    write_calibration(folder_of_pairs(tmp_path, "a", "b") / name, PAIR)
    source = pairs_in(tmp_path)
    assert [source.load(index).frame.stereo for index in (0, 1)] == [PAIR, PAIR]
    assert tmp_path / name in source.files and len(source.files) == 5
    single = images_in(tmp_path).load(0).frame
    assert single.intrinsics == EYE and single.stereo is None


def test_two_calibrations_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("calib.txt", "calibration.json"):
        write_calibration(folder_of_pairs(tmp_path, "a") / name, PAIR)
    message = refusal(lambda: pairs_in(tmp_path))
    assert "holds 2 calibrations: calib.txt, calibration.json" in message and "--calib" in message
    assert pairs_in(tmp_path, calibration=tmp_path / "calib.txt").load(0).frame.stereo == PAIR
    single = images_in(tmp_path)
    assert single.load(0).frame.intrinsics is None
    assert [text for text in single.left_out if "calib.txt, calibration.json" in text]


def test_a_calibration_for_each_frame(tmp_path: Path) -> None:
    folder_of_pairs(tmp_path, "a", "b", layout="kitti")
    (tmp_path / "calib").mkdir()
    write_calibration(tmp_path / "calib" / "a.txt", PAIR)
    source = pairs_in(tmp_path)
    assert source.load(0).frame.stereo == PAIR and source.load(1).frame.stereo is None
    write_calibration(tmp_path / "calib.txt", PAIR)
    assert "calib.txt, calib" in refusal(lambda: pairs_in(tmp_path))


@pytest.mark.parametrize("names", [("left.yaml", "right.yaml"), ("camera_info_left.yaml", "camera_info_right.yaml")])
def test_ros_has_two_files(names: tuple[str, str], tmp_path: Path) -> None:
    folder_of_pairs(tmp_path, "a")
    for name, cx, tx in zip(names, (7.5, 9.5), (0, -2.0), strict=True):
        identity, camera = "[1, 0, 0, 0, 1, 0, 0, 0, 1]", f"[20, 0, {cx}, 0, 20, 5.5, 0, 0, 1]"
        (tmp_path / name).write_text(
            f"width: 16\nheight: 12\ndistortion_model: plumb_bob\nd: []\nk: {camera}\nr: {identity}\n"
            f"p: [20, 0, {cx}, {tx}, 0, 20, 5.5, 0, 0, 0, 1, 0]\n"
        )
    assert pairs_in(tmp_path).load(0).frame.stereo == PAIR


def test_a_calibration_of_another_size(tmp_path: Path) -> None:
    half = PAIR.scaled(Size(8, 6))
    write_calibration(folder_of_pairs(tmp_path, "a") / "calib.txt", half)
    message = refusal(lambda: pairs_in(tmp_path).load(0))
    assert "a: calib.txt is for images of 8x6, the images are 16x12" in message and "--scale-calibration" in message
    scaled = pairs_in(tmp_path, scale_calibration=True).load(0)
    assert scaled.frame.stereo == half.scaled(Size(16, 12))
    assert scaled.notes == ("calib.txt is scaled to images of 16x12",)
    write_calibration(tmp_path / "calib.txt", PAIR.scaled(Size(16, 16)))
    assert "another aspect" in refusal(lambda: pairs_in(tmp_path, scale_calibration=True).load(0))
    fitted = refusal(lambda: pairs_in(tmp_path, camera=Size(16, 16), fit=True).load(0))
    assert "is for images of 16x16, the images are 16x12" in fitted, "it has to fit the images as they are"


def test_a_calibration_without_baseline(tmp_path: Path) -> None:
    write_calibration(folder_of_pairs(tmp_path, "a") / "calib.txt", EYE)
    assert "calib.txt is of one camera and has no baseline" in refusal(lambda: pairs_in(tmp_path).load(0))
    assert images_in(tmp_path).load(0).frame.intrinsics == EYE


def test_a_file_that_says_no_size(tmp_path: Path) -> None:
    text = "P2: 20 0 7.5 0 0 20 5.5 0 0 0 1 0\nP3: 20 0 9.5 -2 0 20 5.5 0 0 0 1 0\n"
    (folder_of_pairs(tmp_path, "a") / "calib.txt").write_text(text)
    loaded = pairs_in(tmp_path).load(0)
    assert loaded.frame.stereo == PAIR and "does not say the size of its images" in loaded.notes[0]


def test_what_nobody_asked_for_does_not_stop_a_model_of_one_image(tmp_path: Path) -> None:
    (folder_of_pairs(tmp_path, "a") / "calib.txt").write_text("525 525 319.5 239.5\n")
    loaded = images_in(tmp_path).load(0)
    assert loaded.frame.intrinsics is None and loaded.notes[0].startswith("calibration left out: calib.txt, line 1")
    assert "calib.txt, line 1" in refusal(lambda: pairs_in(tmp_path).load(0))
    asked = images_in(tmp_path, calibration=tmp_path / "calib.txt")
    assert "calib.txt, line 1" in refusal(lambda: asked.load(0))


def test_an_image_turned_upright_has_another_calibration(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"  # Orientation 3: half a turn.
    jpeg = write(tmp_path / "a.jpg", COLOR).read_bytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    upright = images_in(tmp_path).load(0).frame.rgb
    write_calibration(tmp_path / "calib.txt", EYE)
    found = images_in(tmp_path).load(0)
    assert np.array_equal(found.frame.rgb, upright) and found.frame.intrinsics is None
    assert "turned upright" in found.notes[0]
    given = images_in(tmp_path, calibration=tmp_path / "calib.txt").load(0).frame
    assert given.intrinsics == EYE and np.array_equal(given.rgb, upright[::-1, ::-1]), "pixels as they are stored"


# --- frames.json ------------------------------------------------------------------------------------------------------


def listed(folder: Path, entries: list[dict[str, Any]], **top: Any) -> Path:
    (folder / "frames.json").write_text(json.dumps({"frames": entries, **top}))
    return folder


def test_frames_json_has_pairs_and_calibrations(tmp_path: Path) -> None:
    write(tmp_path / "l.png", COLOR)
    write(tmp_path / "r.png", RIGHT)
    other = replace(PAIR, baseline=0.2)
    write_calibration(tmp_path / "c.json", PAIR)
    entry = {"color": "l.png", "right": "r.png"}
    entries = [{**entry, "name": "a"}, {**entry, "name": "b", "calibration": own.to_data(other)}]
    source = pairs_in(listed(tmp_path, entries, calibration="c.json"))
    assert [source.load(index).frame.stereo for index in (0, 1)] == [PAIR, other]
    assert {path.name for path in source.files} == {"frames.json", "l.png", "r.png", "c.json"}
    given = pairs_in(tmp_path, calibration=tmp_path / "c.json")
    assert given.load(1).frame.stereo == PAIR
    single = images_in(tmp_path)
    assert single.load(0).frame.right is None and "2 pair(s)" in single.left_out[0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"calibration": {"fx": 1}}, "frames.json: frames[0].calibration: width is missing"),
        ({"calibration": {**own.to_data(PAIR), "baseline": -1}}, "the baseline must be above 0 meters, got -1"),
        ({"calibration": {**own.to_data(PAIR), "baseline": "1 m"}}, "baseline must be a finite number, got '1 m'"),
        ({"calibration": {**own.to_data(PAIR), "base": 1}}, "unknown field 'base'"),
        ({"calibration": 12}, "frames[0].calibration"),
        ({"calibration": ""}, "frames[0].calibration"),
        ({"right": ""}, "frames[0].right"),
    ],
)
def test_frames_json_with_something_wrong(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(lambda: pairs_in(listed(tmp_path, [{"color": "l.png", "right": "r.png", **entry}])))


def test_frames_json_without_a_right_image(tmp_path: Path) -> None:
    write(tmp_path / "l.png", COLOR)
    assert "l: l.png has no right image" in refusal(lambda: pairs_in(listed(tmp_path, [{"color": "l.png"}])).load(0))


# --- side by side -----------------------------------------------------------------------------------------------------

BOTH = np.hstack((COLOR, RIGHT))


def test_side_by_side(tmp_path: Path) -> None:
    write(tmp_path / "a.png", BOTH)
    write_calibration(tmp_path / "calib.txt", PAIR)
    frame = pairs_in(tmp_path, side_by_side=True).load(0).frame
    assert np.array_equal(frame.rgb, COLOR) and np.array_equal(frame.right, RIGHT) and frame.stereo == PAIR
    single = images_in(tmp_path, side_by_side=True)
    assert np.array_equal(single.load(0).frame.rgb, COLOR) and single.load(0).frame.intrinsics == EYE
    assert single.left_out == ("left out: the right images of 1 pair(s): the model reads one image",)
    (tmp_path / "calib.txt").unlink()
    assert pairs_in(listed(tmp_path, [{"color": "a.png"}], side_by_side=True)).load(0).frame.right is not None


def test_side_by_side_wants_an_even_width(tmp_path: Path) -> None:
    write(tmp_path / "a.png", BOTH[:, 1:])
    message = refusal(lambda: pairs_in(tmp_path, side_by_side=True).load(0))
    assert "a.png is 31 pixels wide, an odd number" in message
    entry = {"color": "a.png", "right": "a.png"}
    assert "is a right image too" in refusal(lambda: pairs_in(listed(tmp_path, [entry], side_by_side=True)).load(0))


# --- infrared ---------------------------------------------------------------------------------------------------------


def test_gray_pairs_are_converted_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.left.png", COLOR[..., 0])
    write(tmp_path / "a.right.png", RIGHT[..., 0])
    loaded = pairs_in(tmp_path).load(0)
    assert np.array_equal(loaded.frame.rgb, COLOR[..., :1].repeat(3, 2)) and "gray" in loaded.notes[0]
    write(tmp_path / "a.right.png", RIGHT)
    assert "not alike" in pairs_in(tmp_path).load(0).notes[-1]


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (10, 2), (12, 4), (14, 6), (16, 8)])
def test_deep_gray_pairs_lose_the_same_bits(bits: int, shift: int, tmp_path: Path) -> None:
    left, right = (RNG.integers(0, 1 << bits, (12, 16), dtype=np.uint16) for _ in range(2))
    left[0, 0], right[:] = (1 << bits) - 1, right >> 3  # A dim image is not made brighter than its partner.
    write(tmp_path / "a.left.png", left)
    write(tmp_path / "a.right.png", right)
    loaded = pairs_in(tmp_path).load(0)
    assert loaded.frame.right is not None and loaded.frame.rgb.dtype == np.uint8
    assert np.array_equal(loaded.frame.rgb[..., 1], left >> shift)
    assert np.array_equal(loaded.frame.right[..., 2], right >> shift)
    assert loaded.notes == (f"gray of 16 bits became RGB of 8 bits: it holds {bits}, divided by {1 << shift}",)


def test_deep_gray_alone_is_still_depth(tmp_path: Path) -> None:
    write(tmp_path / "a.color.png", DEPTH)
    assert "that is a depth image" in refusal(lambda: images_in(tmp_path).load(0))


# --- frames that change -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", [Size(40, 20), Size(20, 40), Size(90, 60), Size(60, 40), Size(31, 17)])
def test_fitting_moves_the_calibration_with_the_pixels(camera: Size) -> None:
    """Points project into the fitted image where the crop and the resize put their pixels."""
    size = Size(60, 40)
    eye = Intrinsics(50.0, 52.0, 31.25, 18.5, *size)
    pair = StereoCalibration(eye, replace(eye, cx=33.0), baseline=0.1)
    frame = Frame(np.zeros((40, 60, 3), np.uint8), right=np.zeros((40, 60, 3), np.uint8), stereo=pair)
    fitted = fit_frame(SourceFrame("a", frame, notes=("kept",)), camera)
    assert fitted.frame.stereo is not None and fitted.frame.intrinsics == fitted.frame.stereo.left
    assert fitted.notes == ("kept",)
    rows, columns = crop(size, camera)
    for before, after in ((pair.left, fitted.frame.stereo.left), (pair.right, fitted.frame.stereo.right)):
        for x, y, z in ((0.1, 0.2, 1.0), (-0.3, 0.1, 2.0)):
            column, row = before.fx * x / z + before.cx, before.fy * y / z + before.cy
            wide, high = columns.stop - columns.start, rows.stop - rows.start
            expected = (
                (column - columns.start + 0.5) * camera.width / wide - 0.5,
                (row - rows.start + 0.5) * camera.height / high - 0.5,
            )
            assert np.allclose((after.fx * x / z + after.cx, after.fy * y / z + after.cy), expected)
    assert fit_calibration(eye, camera) == fitted.frame.intrinsics


def test_fitting_and_mirroring_move_a_point_as_they_move_its_pixel() -> None:
    """A bright square in both images stays where the calibration says that a point projects."""
    eye = Intrinsics(100.0, 100.0, 79.5, 59.5, 160, 120)
    pair, point = StereoCalibration(eye, replace(eye, cx=83.5), baseline=0.2), np.array([0.2, 0.1, 2.0])
    images = []
    for camera, place in ((pair.left, point), (pair.right, point - (0.2, 0, 0))):
        image = np.zeros((120, 160, 3), np.uint8)
        column, row = _pixel(camera, place)
        image[round(row - 3.5) : round(row + 4.5), round(column - 3.5) : round(column + 4.5)] = 200
        images.append(image)
    whole = SourceFrame("a", Frame(images[0], right=images[1], stereo=pair))
    offset = np.subtract(_blob(images[0]), _pixel(pair.left, point))

    class One:
        names, description, files, unpaired, left_out = ("a",), "one", (), (), ()

        def __len__(self) -> int:
            return 1

        def load(self, index: int) -> SourceFrame:
            return fit_frame(whole, Size(80, 40))

    source = MirroredSource(One(), 4)
    for index, signs in enumerate(((1, 1), (-1, 1), (1, -1), (-1, -1))):
        frame = source.load(index).frame
        assert frame.stereo is not None and frame.right is not None
        seen = point * (*signs, 1)
        if signs[0] < 0:  # From the camera that is on the left now, which was on the right.
            seen = (point - (0.2, 0, 0)) * (*signs, 1)
        shift = offset / 2 * signs
        assert np.allclose(_blob(frame.rgb) - shift, _pixel(frame.stereo.left, seen), atol=0.02), source.names[index]
        other = seen - (0.2, 0, 0)
        assert np.allclose(_blob(frame.right) - shift, _pixel(frame.stereo.right, other), atol=0.02)


def _pixel(camera: Intrinsics, point: np.ndarray) -> tuple[float, float]:
    return camera.fx * point[0] / point[2] + camera.cx, camera.fy * point[1] / point[2] + camera.cy


def _blob(image: np.ndarray) -> np.ndarray:
    weight = image[..., 0].astype(float)
    rows, columns = np.indices(weight.shape)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


def test_what_belongs_to_the_left_camera_does_not_change_sides() -> None:
    frame = Frame(COLOR, right=RIGHT, intrinsics=EYE)

    class One:
        names, description, files, unpaired, left_out = ("a",), "one", (), (), ()

        def __len__(self) -> int:
            return 1

        def load(self, index: int) -> SourceFrame:
            return SourceFrame("a", frame)

    source = MirroredSource(One(), 4)
    assert "the intrinsics belong to the other" in refusal(lambda: source.load(1))
    assert source.load(2).frame.intrinsics == EYE.upside_down()


# --- sources that bring pairs of their own ----------------------------------------------------------------------------


def test_the_sample_is_a_pair_too() -> None:
    source = open_source("sample", needs_right=True)
    frame = source.load(0).frame
    assert "stereo pair" in source.description and frame.depth is None
    assert frame.stereo is not None and frame.right is not None
    truth = sample_truth()
    disparity = np.where(truth > 0, frame.stereo.left.fx * frame.stereo.baseline / np.maximum(truth, 0.1), 0)
    disparity = np.where(truth > 0, disparity - frame.stereo.doffs, -1e9).astype(np.float32)
    depth, valid = frame.stereo.meters(disparity)
    assert np.array_equal(valid, truth > 0) and np.allclose(depth[valid], truth[valid], rtol=1e-4)
    assert _unlikeness(frame, disparity) < 0.25 * _unlikeness(frame, np.where(truth > 0, 0, disparity))
    fitted = open_source("sample", needs_right=True, camera=Size(320, 240)).load(0).frame
    assert fitted.stereo is not None and fitted.stereo.size == Size(320, 240)
    assert open_source("sample").load(0).frame.right is None


def test_rendered_pairs_have_the_geometry_of_their_calibration() -> None:
    size = Size(160, 120)
    source = open_source("synthetic:3:5", needs_right=True, camera=size)
    assert isinstance(source, SyntheticSource)
    for index in range(3):
        frame, truth = source.load(index).frame, source.truth(index)
        assert frame.stereo is not None and frame.depth is None
        disparity = (frame.stereo.left.fx * frame.stereo.baseline / truth).astype(np.float32)
        assert np.allclose(frame.stereo.meters(disparity)[0], truth, rtol=1e-5)
        rows, columns = np.indices(truth.shape).astype(np.float32)
        from_right = cv2.remap(source.view(index, 0.06).depth, columns - disparity, rows, cv2.INTER_LINEAR)
        seen = columns >= disparity
        assert np.median(np.abs(from_right / truth - 1)[seen]) < 1e-4, "depth of either camera is that of the point"
        assert _unlikeness(frame, disparity, 90) < 0.8 * _unlikeness(frame, 0 * disparity, 90)
        assert np.array_equal(frame.rgb, open_source("synthetic:3:5", camera=size).load(index).frame.rgb)


def _unlikeness(frame: Frame, disparity: np.ndarray, percent: float = 50) -> float:
    """Percentile of the difference of levels between the left image and the right one, looked up at the disparity."""
    assert frame.right is not None
    rows, columns = np.indices(disparity.shape).astype(np.float32)
    looked_up = cv2.remap(frame.right, columns - disparity, rows, cv2.INTER_LINEAR)
    inside = (columns - disparity >= 0) & (columns - disparity <= frame.size.width - 1)
    return float(np.percentile(np.abs(looked_up.astype(int) - frame.rgb)[inside], percent))


@pytest.mark.parametrize("text", ["sample", "synthetic:1"])
def test_they_take_no_other(text: str, tmp_path: Path) -> None:
    for given in ({"calibration": tmp_path}, {"side_by_side": True}):
        assert "has no meaning" in refusal(lambda: open_source(text, needs_right=True, **given))  # noqa: B023


@pytest.mark.skipif(not STEREO_DATA.is_dir(), reason="the shared stereo pairs are not here")
def test_a_real_pair_of_kitti(tmp_path: Path) -> None:
    for folder, name in (("image_2", "left"), ("image_3", "right")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "000000_10.png").symlink_to(STEREO_DATA / f"kitti_000000_10.{name}.png")
    (tmp_path / "calib_cam_to_cam.txt").symlink_to(STEREO_DATA / "kitti_000000.calib_cam_to_cam.txt")
    frame = pairs_in(tmp_path).load(0).frame
    assert frame.stereo is not None and frame.size == Size(1242, 375)
    disparity = cv2.imread(str(STEREO_DATA / "kitti_000000_10.disp_noc.png"), cv2.IMREAD_UNCHANGED) / 256
    known = disparity > 0
    depth, _ = frame.stereo.meters(np.where(known, disparity, -1e9))
    assert np.percentile(depth[known], 1) > 4 and np.percentile(depth[known], 99) < 100
    truth, none = (np.where(known, value, -1e9).astype(np.float32) for value in (disparity, 0))
    assert _unlikeness(frame, truth) < 0.5 * _unlikeness(frame, none)


# --- meters, and the command line -------------------------------------------------------------------------------------


def result_of(values: np.ndarray) -> DepthResult:
    valid = np.isfinite(values) & (values > 0)
    health = Health(0.0, float(valid.mean()), None, None)
    return DepthResult(np.where(valid, values, 0), valid, Semantics.DISPARITY, "", Timing(0, 0, 0), health)


def test_a_result_becomes_meters_by_its_calibration() -> None:
    values = np.full((12, 16), 2.0, np.float32)
    values[0, :3] = (0, np.nan, -1)
    result = result_of(values)
    made = to_meters(result, PAIR)
    assert made.unit == "m" and made.scaled == "focal length 20 px, baseline 0.1 m, principal points 2 px apart"
    assert not made.valid[0, :3].any() and (made.depth_m[0, :3] == 0).all() and made.valid.sum() == 189
    assert np.allclose(made.depth_m[made.valid], 20 * 0.1 / 4) and made.health.valid_share == 189 / 192
    assert CalibratedPair()(result, Frame(COLOR, right=RIGHT, stereo=PAIR)).unit == "m"
    assert CalibratedPair()(result, Frame(COLOR, right=RIGHT)) is result, "pixels stay pixels"
    with pytest.raises(InputError, match="meters already"):
        to_meters(made, PAIR)
    with pytest.raises(InputError, match="is relative_inverse_depth"):
        to_meters(replace(result, semantics=Semantics.RELATIVE_INVERSE_DEPTH), PAIR)
    with pytest.raises(InputError, match="the calibration is for 32x24"):
        to_meters(result, PAIR.scaled(Size(32, 24)))


def test_run_asks_for_what_a_pair_needs(tmp_path: Path) -> None:
    model = "depth-anything-v2-vits"
    mono = get_variant(model).contract(model, CAMERA, 70)
    stereo = mono.model_copy(update={"semantics": Semantics.DISPARITY, "camera": Size(16, 12)})
    left, right = write(tmp_path / "l.png", COLOR), write(tmp_path / "r.png", RIGHT)
    write_calibration(tmp_path / "c.json", PAIR)
    reading = Reading(1000, needs_depth=False, needs_right=True)
    message = refusal(lambda: _source(str(left), None, None, None, reading, stereo, False))
    assert "reads a pair of images" in message and "--right FILE" in message and "--side-by-side" in message
    frame = _source(str(left), None, right, tmp_path / "c.json", reading, stereo, False).load(0).frame
    assert np.array_equal(frame.right, RIGHT) and frame.stereo == PAIR
    write(tmp_path / "pairs" / "a.left.png", COLOR)
    write(tmp_path / "pairs" / "a.right.png", RIGHT)
    source = _source(str(tmp_path / "pairs"), None, None, tmp_path / "c.json", reading, stereo, False)
    assert source.load(0).frame.stereo == PAIR
    for given in ({"right": right}, {"calibration": tmp_path / "c.json"}, {"scale_calibration": True}):
        options = {"right": None, "calibration": None, "scale_calibration": False, **given}
        assert "for stereo models, has no meaning" in refusal(lambda: check_pair(mono, False, **options))  # noqa: B023
        check_pair(stereo, True, **options)
