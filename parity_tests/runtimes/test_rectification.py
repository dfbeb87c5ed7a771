"""Rectified pairs: dots of a known scene come out on equal rows, with disparity that gives their depth."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cdm_export.runtimes.calibration import Distortion, DistortionModel, Intrinsics, StereoCalibration
from cdm_export.runtimes.calibration_files import write_calibration
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.rectification import Rectifier, rectifier
from cdm_export.runtimes.sources import open_source
from parity_tests.frame_files import write
from parity_tests.runtimes.test_calibration import in_right, project

TURN = tuple(map(tuple, cv2.Rodrigues(np.array([0.03, -0.04, 0.02]))[0].tolist()))
BROWN = [Distortion(DistortionModel.RADIAL_TANGENTIAL, c) for c in ((-0.2, 0.05, 1e-3, -2e-3), (-0.15, 0.02, 0, 1e-3))]
FISHEYE = [Distortion(DistortionModel.FISHEYE, c) for c in ((0.02, -0.01, 0, 0), (0.03, 0, -0.005, 0))]


def pair_with(lenses: list[Distortion] | list[None]) -> StereoCalibration:
    left, right = Intrinsics(400.0, 405.0, 318, 236, 640, 480), Intrinsics(410.0, 402.0, 325, 245, 640, 480)
    return StereoCalibration(
        replace(left, distortion=lenses[0]), replace(right, distortion=lenses[1]),
        rotation=TURN, translation=(-0.12, 0.004, -0.006),
    )  # fmt: skip


POINTS = np.array([[x, y, z] for x, y, z in ((-0.4, -0.3, 2), (0.3, -0.2, 1.5), (0.1, 0.25, 1.2), (-0.3, 0.3, 2.5))])


def dots(camera: Intrinsics, points: np.ndarray) -> np.ndarray:
    """One blurred dot of its own color for each point."""
    rows, columns = np.indices((480, 640))
    image = np.zeros((480, 640, 3))
    for index, (column, row) in enumerate(project(camera, points)):
        image[..., index % 3] += 250 * np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / 18) * (index < 3)
        if index == 3:
            image += (250 * np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / 18))[..., None]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def found(image: np.ndarray, near: np.ndarray, channel: int) -> np.ndarray:
    """Center of the dot near a pixel: column, row."""
    rows, columns = np.indices(image.shape[:2])
    weight = image[..., channel] * (np.hypot(columns - near[0], rows - near[1]) < 14.0)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("lenses", [BROWN, FISHEYE, [None, None]], ids=["brown", "fisheye", "pinhole"])
def test_dots_come_out_where_the_new_calibration_says(lenses: list[Distortion]) -> None:
    pair = pair_with(lenses)
    frame = Frame(dots(pair.left, POINTS), right=dots(pair.right, in_right(pair, POINTS)), stereo=pair)
    rectify = rectifier(pair)
    made = rectify(frame)
    assert made.stereo is rectify.stereo and made.stereo.rectified and made.intrinsics == made.stereo.left
    assert np.isclose(made.stereo.baseline, np.linalg.norm(pair.translation)), "rectifying moves no camera"
    points = POINTS @ rectify.rotation.T
    left, right = project(made.stereo.left, points), project(made.stereo.right, in_right(made.stereo, points))
    for index, channel in enumerate((0, 1, 2, 0)):
        seen_left, seen_right = found(made.rgb, left[index], channel), found(made.right, right[index], channel)
        assert np.allclose(seen_left, left[index], atol=0.15) and np.allclose(seen_right, right[index], atol=0.15)
        assert abs(seen_left[1] - seen_right[1]) < 0.1, "rows on rows"
        length = seen_left[0] - seen_right[0] + made.stereo.doffs
        depth = made.stereo.left.fx * made.stereo.baseline / length
        assert np.isclose(depth, points[index, 2], rtol=0.01)
    before = abs(project(pair.left, POINTS)[:, 1] - project(pair.right, in_right(pair, POINTS))[:, 1])
    assert before.max() > 3, "they were on other rows"


def test_what_is_refused() -> None:
    pair = pair_with(BROWN)
    rgb = np.zeros((480, 640, 3), np.uint8)
    rectify = Rectifier(pair)
    for frame in (Frame(rgb), Frame(rgb, right=rgb, stereo=pair_with(FISHEYE))):
        with pytest.raises(InputError, match="not of the cameras"):
            rectify(frame)
    with pytest.raises(InputError, match="depth image belongs"):
        rectify(Frame(rgb, depth=np.ones((480, 640), np.float32), right=rgb, stereo=pair))
    with pytest.raises(InputError, match="rectified images already"):
        Rectifier(rectify.stereo)
    for given in ([BROWN[0], FISHEYE[1]], [FISHEYE[0], None]):
        with pytest.raises(InputError, match="one lens of the pair is fisheye"):
            Rectifier(pair_with(given))  # type: ignore[arg-type]
    for translation in ((0.12, 0, 0), (-0.01, -0.12, 0), (-0.01, 0, 0.12)):
        with pytest.raises(InputError, match="expected it beside the left one"):
            Rectifier(replace(pair, translation=translation))


def test_sources_rectify_and_say_so(tmp_path: Path) -> None:
    pair = pair_with(BROWN)
    write(tmp_path / "a.left.png", dots(pair.left, POINTS))
    write(tmp_path / "a.right.png", dots(pair.right, in_right(pair, POINTS)))
    write_calibration(tmp_path / "calibration.json", pair)
    loaded = open_source(str(tmp_path), needs_depth=False, needs_right=True).load(0)
    assert loaded.frame.stereo == rectifier(pair).stereo
    assert loaded.notes == ("rectified by calibration.json",)
    write(tmp_path / "a.depth.png", np.full((480, 640), 1000, np.uint16))
    loaded = open_source(str(tmp_path), needs_depth=False, needs_right=True).load(0)
    assert loaded.frame.depth is None and loaded.raw_depth is None
    assert "the depth image is left out" in loaded.notes[1]
    mono = open_source(str(tmp_path)).load(0)
    assert mono.frame.intrinsics == pair.left and mono.frame.depth is not None, "one image stays as it is"
