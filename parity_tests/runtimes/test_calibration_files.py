"""Calibration files: every format is read, and whatever is wrong with one is refused with file and line."""

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdm_export import read_calibration, write_calibration
from cdm_export.runtimes.calibration import Distortion, DistortionModel, Intrinsics, StereoCalibration
from cdm_export.runtimes.calibration_files import SizeMissing, calibration_of, own, read_calibration_pair
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from parity_tests.calibration_samples import (
    DISTORTED,
    KITTI_OBJECT,
    KITTI_RAW,
    LEFT,
    MIDDLEBURY,
    OPEN3D,
    OPENCV_MONO,
    OPENCV_RECTIFIED,
    OPENCV_STEREO,
    OPENCV_XML,
    OWN,
    OWN_PAIR,
    PAIR,
    POSED,
    REALSENSE,
    REALSENSE_PAIR,
    ROS,
    ROS_ECHO,
    SAMPLES,
    Sample,
    ros,
)
from parity_tests.conftest import SHARED_FRAMES
from parity_tests.frame_files import refusal

KITTI = SHARED_FRAMES.parent / "stereo" / "kitti_000000.calib_cam_to_cam.txt"
EACH = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


@pytest.fixture
def refused(tmp_path: Path):
    """What a file with this text is refused with."""

    def refuse(text: str, **given: object) -> str:
        (tmp_path / "it.x").write_text(text)
        return refusal(lambda: read_calibration(tmp_path / "it.x", **given))

    return refuse


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


# --- every format -----------------------------------------------------------------------------------------------------


@EACH
def test_every_format(sample: Sample, tmp_path: Path) -> None:
    """The name says nothing; line ends and a byte order mark are the system's."""
    for name, text in ((sample.name, sample.text), ("c.dat", "\ufeff" + sample.text.replace("\n", "\r\n"))):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert read_calibration(tmp_path / name) == sample.says


@EACH
def test_what_is_read_is_written_and_read(sample: Sample, tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.json", sample.says)
    assert read_calibration(tmp_path / "c.json") == sample.says
    assert calibration_of(own.to_data(sample.says), "frames.json") == sample.says


@EACH
def test_every_field_is_missed_by_name(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / sample.name
    for name in sample.fields:
        keys = rf'(?m)^{name}(?=[:=])|(?<="){name}(?=")|(?<= ){name}(?=:)|(?<=<){name}(?=[ >])|(?<=</){name}(?=>)'
        path.write_text(re.sub(keys, "zz", sample.text))
        message = refusal(lambda: read_calibration(path))
        assert re.search(rf"\b{name}\b|unknown field 'zz'", message) and sample.name in message, message


@EACH
def test_every_number_must_be_one(sample: Sample, tmp_path: Path) -> None:
    """Each number in turn becomes a word: none is skipped in silence, unless its field is not read."""
    path = tmp_path / sample.name
    unread = re.compile(
        r"(?:calib_time|calibration_time|ndisp|isint|flags|sec|nanosec|^[rp]:|stamp|do_rectify|%YAML|xml)"
    )
    changed = 0
    for match in re.finditer(r"(?<![\w.\"])-?\d[\d.e+-]*", sample.text):
        line = sample.text[: match.start()].count("\n") + 1
        content = sample.text.split("\n")[line - 1]
        if unread.search(content):
            continue
        path.write_text(sample.text[: match.start()] + "oops" + sample.text[match.end() :])
        try:
            assert read_calibration(path) == sample.says, f"{content} changes what is read"
        except InputError as error:
            assert f"{sample.name}, line {line}" in error.message and "oops" in error.message, error.message
            changed += 1
    assert changed >= 8


@EACH
def test_half_a_file(sample: Sample, tmp_path: Path) -> None:
    """Cut anywhere, a file is refused or says the same: never something else."""
    path = tmp_path / sample.name
    for end in range(0, len(sample.text) - 1, 3):
        path.write_text(sample.text[:end])
        try:
            cut = read_calibration(path)
        except InputError as error:
            assert sample.name in error.message
        else:
            # A line of numbers has no end mark: its last number may have lost digits. The size of images will tell.
            shorter = cut == POSED if sample.name == "rectified.yml" else sample.name == "middlebury.txt"
            assert cut == sample.says or shorter, sample.text[:end]


@EACH
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_raise_nothing_else(sample: Sample, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(sample.text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        cut = data.draw(st.integers(0, 8))
        content[at : at + cut] = data.draw(
            st.binary(max_size=8) | st.text("[]{}:,-#'\"\\\n 0e9<&*!", max_size=8).map(str.encode)
        )
    (tmp_path / "fuzz").write_bytes(bytes(content))
    for given_size in (None, Size(640, 480)):
        for raw in (False, True):
            with suppress(InputError):
                read_calibration(tmp_path / "fuzz", size=given_size, raw=raw)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text("[]{}:,-#'\"\\\n 019eKPcam=<>/?!", max_size=200).map(str.encode))
def test_any_bytes_raise_nothing_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "fuzz").write_bytes(content)
    with pytest.raises(InputError):
        read_calibration(tmp_path / "fuzz", size=Size(640, 480))


# --- formats by themselves --------------------------------------------------------------------------------------------


def test_opencv_reads_what_the_samples_say(tmp_path: Path) -> None:
    """The samples are what ``cv2.FileStorage`` reads, so that our reader is not their only judge."""
    for name, text in (("a.yml", OPENCV_MONO), ("a.xml", OPENCV_XML)):
        (tmp_path / name).write_text(text)
        storage = cv2.FileStorage(str(tmp_path / name), cv2.FILE_STORAGE_READ)
        assert np.array_equal(storage.getNode("camera_matrix").mat(), DISTORTED.matrix)
        lens = storage.getNode("distortion_coefficients").mat().ravel()
        assert tuple(lens) == DISTORTED.distortion.coefficients


@pytest.mark.parametrize("suffix", [".yml", ".xml"])
def test_what_opencv_writes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"written{suffix}"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    storage.write("translation_unit", "cm")
    for name, matrix in (("M1", DISTORTED.matrix), ("M2", LEFT.matrix), ("R", np.array(POSED.rotation))):
        storage.write(name, matrix)
    storage.write("D1", np.array([DISTORTED.distortion.coefficients]))
    storage.write("D2", np.zeros((1, 5)))
    storage.write("T", np.array([[-12.0], [0], [0]]))
    storage.release()
    assert read_calibration(path) == POSED


def test_rectified_images_or_those_as_taken(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(OPENCV_RECTIFIED)
    assert read_calibration(tmp_path / "a.yml", raw=True) == POSED
    (tmp_path / "b.txt").write_text(KITTI_RAW)
    posed = read_calibration(tmp_path / "b.txt", raw=True)
    assert isinstance(posed, StereoCalibration) and posed.left == DISTORTED and posed.rotation == POSED.rotation
    # x_right = R x_0 + T_03, x_0 = x_left - T_02, and R turns (0.06, 0, 0) to (0, 0.06, 0).
    assert np.allclose(posed.translation, (-0.06, -0.06, 0))
    for text in (MIDDLEBURY, KITTI_OBJECT):
        (tmp_path / "c.txt").write_text(text)
        assert "rectified images" in refusal(lambda: read_calibration(tmp_path / "c.txt", raw=True, size=LEFT.size))


def test_a_size_that_no_file_says(tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text(KITTI_OBJECT)
    (tmp_path / "a.yml").write_text(replaced(OPENCV_STEREO, "image_size: [ 640, 480 ]\n", ""))
    for name, says in (("calib.txt", PAIR), ("a.yml", POSED)):
        with pytest.raises(SizeMissing, match="does not say the size"):
            read_calibration(tmp_path / name)
        assert read_calibration(tmp_path / name, size=Size(640, 480)) == says
    (tmp_path / "b.txt").write_text(MIDDLEBURY)
    assert read_calibration(tmp_path / "b.txt", size=Size(320, 240)) == PAIR, "the file counts"


class TestRos:
    def test_a_pair_of_files(self, tmp_path: Path) -> None:
        (tmp_path / "left.yaml").write_text(ROS)
        (tmp_path / "right.yaml").write_text(ros(330.5, -60))
        assert read_calibration_pair(tmp_path / "left.yaml", tmp_path / "right.yaml") == PAIR
        assert read_calibration(tmp_path) == PAIR
        raw = read_calibration(tmp_path, raw=True)
        assert raw.left == raw.right == DISTORTED and np.allclose(raw.translation, (-0.12, 0, 0))
        message = refusal(lambda: read_calibration_pair(tmp_path / "right.yaml", tmp_path / "left.yaml"))
        assert "baseline must be above 0 meters, got -0.12" in message and "swapped" in message
        assert "left.yaml, line 18" in message

    def test_rectification_leads_back_to_the_cameras(self, tmp_path: Path) -> None:
        """x_rectified = R x of either camera, so that a point lies on one row of both."""
        turns = [cv2.Rodrigues(np.array(turn))[0] for turn in ([0.02, -0.01, 0.03], [-0.01, 0.02, -0.02])]
        for name, text, turn in zip(("left", "right"), (ROS, ros(330.5, -60)), turns, strict=True):
            rows = ", ".join(map(repr, turn.ravel().tolist()))
            (tmp_path / f"{name}.yaml").write_text(replaced(text, "1, 0, 0, 0, 1, 0, 0, 0, 1", rows))
        raw = read_calibration(tmp_path, raw=True)
        point = np.array([0.3, -0.2, 2.0])
        right = np.array(raw.rotation) @ point + np.array(raw.translation)
        assert np.allclose(turns[1] @ right, turns[0] @ point - (0.12, 0, 0))

    def test_two_sizes(self, tmp_path: Path) -> None:
        (tmp_path / "left.yaml").write_text(ROS)
        (tmp_path / "right.yaml").write_text(replaced(ros(330.5, -60), "640", "320"))
        assert "the right image is 320x480, the left one in left.yaml is 640x480" in refusal(
            lambda: read_calibration(tmp_path)
        )

    @pytest.mark.parametrize(
        ("model", "lens", "distortion"),
        [
            ("plumb_bob", "0, 0, 0, 0, 0", None),
            ("plumb_bob", "", None),
            ("equidistant", "0.1, 0, 0, 0", Distortion(DistortionModel.FISHEYE, (0.1, 0, 0, 0))),
            ("equidistant", "0, 0, 0, 0", Distortion(DistortionModel.FISHEYE, (0, 0, 0, 0))),
            ("rational_polynomial", "1, 0, 0, 0, 0, 0, 0, 2",
             Distortion(DistortionModel.RADIAL_TANGENTIAL, (1, 0, 0, 0, 0, 0, 0, 2))),
        ],
    )  # fmt: skip
    def test_models(self, model: str, lens: str, distortion: Distortion | None, tmp_path: Path) -> None:
        text = ros(320.5, 0, model, lens).replace("cols: 5", f"cols: {len(lens.split(',')) if lens else 0}")
        (tmp_path / "a.yaml").write_text(text)
        assert read_calibration(tmp_path / "a.yaml") == replace(LEFT, distortion=distortion)

    def test_parts_of_a_sensor(self, refused) -> None:
        assert "line 20: binning_x is 2" in refused(replaced(ROS_ECHO, "binning_x: 0", "binning_x: 2"))
        assert "region of interest" in refused(replaced(ROS_ECHO, "x_offset: 0", "x_offset: 8"))


def test_realsense_models(tmp_path: Path) -> None:
    for model, lens in (("kannala_brandt4", "0.1, 0, 0, 0, 0"), ("Inverse Brown Conrady", "0, 0, 0, 0, 0")):
        text = re.sub(r'"distortion.brown_conrady", "coeffs": \[.*\]', f'"{model}", "coeffs": [{lens}]', REALSENSE)
        (tmp_path / "a.json").write_text(text)
        fisheye = Distortion(DistortionModel.FISHEYE, (0.1, 0, 0, 0)) if "kannala" in model else None
        assert read_calibration(tmp_path / "a.json") == replace(LEFT, distortion=fisheye)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (ROS, "plumb_bob", "plum_bob", "line 8: unknown distortion model 'plum_bob'. Did you mean 'plumb_bob'"),
        (ROS, "plumb_bob", "omnidirectional", "unknown distortion model 'omnidirectional'"),
        (ROS, "plumb_bob", "equidistant", "equidistant has 4 coefficients, got 5"),
        (ROS, "cols: 3", "cols: 4", "camera_matrix must be a matrix of 3x3, got 3x4"),
        (ROS, "image_width: 640", "image_width: 640.5", "line 1: image_width must be a whole number of pixels"),
        (ROS, "image_width: 640", "image_width: 0", "width must be a whole number of pixels from 1"),
        (ROS, "image_width: 640", "image_width: 1e999", "must be a finite number"),
        (ROS, "[500.0, 0.0", "[500.0, 1.5", "line 5: camera_matrix has skew 1.5"),
        (ROS, "[500.0, 0.0, 320.5", "[-500.0, 0.0, 320.5", "fx must be a focal length above 0"),
        (ROS, "image_height", "image_width", "line 2: image_width stands here a second time"),
        (ROS, "plumb_bob", "&anchor plumb_bob", "line 8: '&anchor plumb_bob': anchors, tags"),
        (ROS, "plumb_bob", "!!python/object/apply:os.system ['true']", "anchors, tags"),
        (ROS, "plumb_bob", "*alias", "anchors, tags"),
        (OPENCV_MONO, "0., 0., 1. ]", "0., 0., 2. ]", "is no camera matrix"),
        (OPENCV_MONO, "0., 0., 1. ]", "0., 1. ]", "says 3x3 and has 8 numbers"),
        (OPENCV_STEREO, "translation_unit: mm\n", "", "T has no unit"),
        (OPENCV_STEREO, "unit: mm", "unit: inch", "line 4: unknown unit 'inch'"),
        (OPENCV_STEREO, "0., -1., 0., 1., 0.", "0., -2., 0., 1., 0.", "rotation is none"),
        (OPENCV_RECTIFIED, "-60000.", "60000.", "baseline must be above 0 meters, got -0.12"),
        (OPENCV_RECTIFIED, "-60000.", "0.", "baseline must be above 0 meters, got 0"),
        (OPENCV_XML, "<opencv_storage>", '<!DOCTYPE a [<!ENTITY b "c">]><opencv_storage>', "document type"),
        (OPENCV_XML, "</rows>", "</row>", "line 6: mismatched tag"),
        (KITTI_RAW, "S_rect_03: 640", "S_rect_03: 641", "the right image is 641x480, the left one is 640x480"),
        (KITTI_RAW, "330.5 -30 0", "330.5 30 0", "baseline must be above 0 meters, got 0"),
        (KITTI_RAW, "-30 0 510 240.25 0 0", "-30 0 510 240.25 20 0", "out of line"),
        (KITTI_RAW, "P_rect_02: 500", "P_rect_02: 0", "fx must be a focal length above 0"),
        (KITTI_RAW, "S_02: 640 480", "gibberish", "line 2: expected NAME:NUMBERS"),
        (MIDDLEBURY, "doffs=10", "doffs=11", "line 3: doffs is 11, but the principal points"),
        (MIDDLEBURY, "baseline=120", "baseline=-120", "line 4: the baseline must be above 0 meters"),
        (MIDDLEBURY, "; 0 510", " 0 510", "must be [fx 0 cx; 0 fy cy; 0 0 1]"),
        (MIDDLEBURY, "cam0=[500 0", "cam0=[500 3", "line 1: cam0 has skew 3"),
        (REALSENSE, "brown_conrady", "ftheta", "line 2: unknown distortion model"),
        (REALSENSE, "distortion.brown", "distortion.inverse_brown", "coefficients other than 0 is not read"),
        (REALSENSE_PAIR, "[1, 0, 0, 0, 1", "[1, 1, 0, 0, 1", "line 3: rotation is none"),
        (OWN, "calibration 1", "calibration 2", "expected 'cdm-export calibration 1'"),
        (OWN, '"fx"', '"f"', "unknown field 'f'"),
        (OWN, "radial_tangential", "radial", "line 3: unknown distortion model"),
        (OWN, "0.05]", "0.05, 0]", "4 or 5 or 8 or 12 or 14 coefficients, got 6"),
        (OWN_PAIR, "0.12", "-0.12", "line 4: the baseline must be above 0"),
        (OWN_PAIR, "0.12}", "0.12} 1", "something follows the end"),
    ],
)  # fmt: skip
def test_wrong_files(text: str, old: str, new: str, message: str, refused) -> None:
    got = refused(replaced(text, old, new))
    assert message in got and "it.x, line" in got


def test_xml_of_something_else(refused) -> None:
    assert "line 2: it is XML of calibration" in refused(OPENCV_XML.replace("opencv_storage", "calibration"))


def test_the_json_in_the_documentation(tmp_path: Path) -> None:
    examples = re.findall(r"(?s)```json\n(.*?)```", (Path(__file__).parents[2] / "docs" / "calibration.md").read_text())
    for example, kind in zip(examples, (StereoCalibration, Intrinsics), strict=True):
        (tmp_path / "it.json").write_text(example)
        assert isinstance(read_calibration(tmp_path / "it.json"), kind)


def test_open3d_by_rows(refused) -> None:
    by_rows = OPEN3D.replace("500, 0, 0", "500, 0, 320.5").replace("0, 510, 0", "0, 510, 240.25")
    assert "row by row" in refused(by_rows.replace("320.5, 240.25, 1\n", "0, 0, 1\n"))


def test_a_pair_of_cameras_far_apart_in_focal_length(refused) -> None:
    assert "share focal lengths" in refused(OWN_PAIR.replace('"fx": 500', '"fx": 600', 1))


@pytest.mark.parametrize("text", ["", "\n\n", "hello", "a: 1\n", "[1, 2]", "{}", "<a/>", "- 1\n- 2\n", "\0", "a: [1"])
def test_what_is_no_calibration(text: str, refused) -> None:
    assert "it.x" in refused(text)


def test_files_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("#" * (1 << 19))
    (tmp_path / "binary").write_bytes(b"a: 1\n\xff\xfe")
    assert "at most" in refusal(lambda: read_calibration(tmp_path / "large"))
    assert "binary, line 2: it is no text" in refusal(lambda: read_calibration(tmp_path / "binary"))
    assert "No such file" in refusal(lambda: read_calibration(tmp_path / "missing"))
    assert "left.yaml" in refusal(lambda: read_calibration(tmp_path))
    assert "path must be" in refusal(lambda: read_calibration(None))  # type: ignore[arg-type]


BOMBS = (
    "[" * 10_000,
    "{a: " * 10_000,
    "- " * 10_000,
    "a:\n" + "".join(" " * deep + "a:\n" for deep in range(1, 400)),
    "<opencv_storage>" + "<a>" * 10_000,
    "a" + " " * 200_000 + "b",
    "'" + "a" * 200_000,
)


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_depth_and_length_are_bounded(bomb: str, refused) -> None:
    assert "it.x" in refused(bomb)


@pytest.mark.skipif(not KITTI.is_file(), reason="the shared stereo pairs are not here")
def test_a_real_file_of_kitti() -> None:
    pair = read_calibration(KITTI)
    assert pair.size == Size(1242, 375) and np.isclose(pair.baseline, 0.5327, atol=1e-4) and pair.left.fx == 721.5377
    raw = read_calibration(KITTI, raw=True)
    assert raw.size == Size(1392, 512) and np.isclose(np.linalg.norm(raw.translation), pair.baseline, atol=1e-4)
