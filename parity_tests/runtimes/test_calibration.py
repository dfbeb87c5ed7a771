"""Cameras and pairs of them: what is refused, and geometry that follows the images it belongs to."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from cdm_export.runtimes.calibration import Distortion, DistortionModel, Intrinsics, StereoCalibration, pair_of
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame

BROWN = Distortion(
    DistortionModel.RADIAL_TANGENTIAL,
    (-0.3, 0.1, 2e-3, -3e-3, 0.02, 0.01, 0.02, -0.01, 1e-3, 2e-3, -1e-3, 3e-3, 0.02, -0.03),
)
FISHEYE = Distortion(DistortionModel.FISHEYE, (0.05, -0.02, 0.003, -0.001))
LEFT = Intrinsics(500.0, 510.0, 310.5, 250.25, 640, 480)
RIGHT = replace(LEFT, cx=318.5)
PAIR = StereoCalibration(LEFT, RIGHT, baseline=0.12)
TURN = tuple(map(tuple, cv2.Rodrigues(np.array([0.01, -0.03, 0.02]))[0].tolist()))
RAW = StereoCalibration(
    replace(LEFT, distortion=BROWN),
    Intrinsics(495.0, 505.0, 300, 245, 640, 480, FISHEYE),
    rotation=TURN,
    translation=(-0.12, 0.003, -0.002),
)
POINTS = np.random.default_rng(0).uniform((-1, -0.8, 1.5), (1, 0.8, 6), (50, 3))
"""Meters, in front of the left camera."""


def project(camera: Intrinsics, points: np.ndarray) -> np.ndarray:
    """[N, 3] in the camera's axes -> [N, 2] pixels, by OpenCV."""
    points, zero, lens = points.reshape(-1, 1, 3), np.zeros(3), camera.distortion
    if lens is not None and lens.model is DistortionModel.FISHEYE:
        return cv2.fisheye.projectPoints(points, zero, zero, camera.matrix, np.array(lens.coefficients))[0][:, 0]
    coefficients = np.zeros(5) if lens is None else np.array(lens.coefficients)
    return cv2.projectPoints(points, zero, zero, camera.matrix, coefficients)[0][:, 0]


def in_right(pair: StereoCalibration, points: np.ndarray) -> np.ndarray:
    """Left camera's axes -> right camera's."""
    if pair.baseline is not None:
        return points - (pair.baseline, 0, 0)
    return points @ np.array(pair.rotation).T + np.array(pair.translation)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fx": 0}, "fx must be a focal length above 0"),
        ({"fy": -500.0}, "fy must be a focal length above 0"),
        ({"cx": float("nan")}, "cx must be a finite number"),
        ({"cy": "12"}, "cy must be a finite number"),
        ({"fx": True}, "fx must be a finite number"),
        ({"fx": None}, "fx must be a finite number"),
        ({"width": 0}, "width must be a whole number"),
        ({"width": 640.5}, "width must be a whole number"),
        ({"height": 16385}, "height must be a whole number"),
        ({"distortion": (0.1, 0.2, 0, 0)}, "distortion must be a Distortion"),
    ],
)
def test_bad_cameras(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(LEFT, **changed)


def test_a_principal_point_may_be_outside() -> None:
    assert replace(LEFT, cx=-100, cy=1000).cx == -100


@pytest.mark.parametrize(
    ("model", "coefficients", "message"),
    [
        ("radial_tangentail", (0, 0, 0, 0), "Did you mean 'radial_tangential'"),
        (None, (0, 0, 0, 0), "unknown distortion model"),
        ("radial_tangential", (0, 0, 0), "4 or 5 or 8 or 12 or 14 coefficients, got 3"),
        ("fisheye", (0, 0, 0, 0, 0), "4 coefficients, got 5"),
        ("fisheye", (0, 0, 0, float("inf")), "finite number"),
        ("fisheye", "0000", "must be numbers"),
        ("fisheye", 1.0, "must be numbers"),
    ],
)
def test_bad_distortion(model: Any, coefficients: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Distortion(model, coefficients)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"baseline": None}, "has a baseline when it is rectified"),
        ({"baseline": 0}, "baseline must be above 0"),
        ({"baseline": -0.12}, "baseline must be above 0"),
        ({"baseline": float("nan")}, "baseline must be a finite"),
        ({"rotation": TURN}, "has a baseline when it is rectified"),
        ({"rotation": TURN, "translation": (-0.1, 0, 0)}, "has a baseline when it is rectified"),
        ({"left": None}, "left must be Intrinsics"),
        ({"right": LEFT.scaled(Size(320, 240))}, "left is 640x480, right is 320x240"),
        ({"right": replace(LEFT, distortion=BROWN)}, "no distortion any more"),
        ({"right": replace(LEFT, fx=501)}, "share focal lengths"),
        ({"right": replace(LEFT, cy=251)}, "share focal lengths"),
    ],
)
def test_bad_rectified_pairs(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(PAIR, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rotation": None}, "has a baseline when"),
        ({"rotation": ((1, 0, 0), (0, 1, 0))}, "3 rows"),
        ({"rotation": ((1, 0), (0, 1), (0, 0))}, "3 numbers in a row"),
        ({"rotation": ((1, 0, 0), (0, 1, 0), (0, 0, 1.01))}, "rotation is none"),
        ({"rotation": ((1, 0, 0), (0, 1, 0), (0, 0, -1))}, "mirror"),
        ({"rotation": ((1e300, 0, 0), (0, 1, 0), (0, 0, 1))}, "rotation is none"),
        ({"rotation": ((1, 0, 0), (0, 1, 0), (0, 0, float("nan")))}, "finite"),
        ({"translation": (0, 0, 0)}, "above 0 meters long"),
        ({"translation": (1, 0)}, "3 numbers"),
    ],
)
def test_bad_poses(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(RAW, **changed)


# --- the images change, and the calibration with them -----------------------------------------------------------------


@pytest.mark.parametrize("camera", [LEFT, RAW.left, RAW.right])
@pytest.mark.parametrize("to", [Size(320, 240), Size(1280, 960), Size(333, 481)])
def test_scaled(camera: Intrinsics, to: Size) -> None:
    before, after = project(camera, POINTS), project(camera.scaled(to), POINTS)
    ratio = np.array(to) / camera.size
    assert np.allclose(after + 0.5, (before + 0.5) * ratio, atol=1e-9), "pixel edges lie on pixel edges"
    assert camera.scaled(to).size == to


def test_scaled_is_what_resizing_an_image_does() -> None:
    image = np.zeros((480, 640), np.float32)
    image[248:252, 308:312] = 1  # Its middle is at 309.5, 249.5.
    camera = replace(LEFT, cx=309.5, cy=249.5)
    rows, columns = np.nonzero(cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA))
    half = camera.scaled(Size(320, 240))
    assert (columns.mean(), rows.mean()) == (half.cx, half.cy)


def test_cropped() -> None:
    window = RAW.left.cropped(100, 50, Size(320, 200))
    assert np.allclose(project(window, POINTS), project(RAW.left, POINTS) - (100, 50)) and window.size == Size(320, 200)
    assert PAIR.cropped(100, 50, Size(320, 200)).doffs == PAIR.doffs
    for left, top, size in ((-1, 0, Size(2, 2)), (0, -1, Size(2, 2)), (639, 0, Size(2, 2)), (0, 0, Size(640, 481))):
        with pytest.raises(InputError, match="not inside an image of 640x480"):
            LEFT.cropped(left, top, size)


@pytest.mark.parametrize("pair", [PAIR, RAW, replace(RAW, left=RAW.right, right=RAW.left)])
def test_mirrored(pair: StereoCalibration) -> None:
    """What the right camera saw of a point, flipped, is what the new left camera sees of its mirror image."""
    made = pair.mirrored()
    seen_left, seen_right = project(pair.left, POINTS), project(pair.right, in_right(pair, POINTS))
    flipped_left, flipped_right = ((639, 0) + seen * (-1, 1) for seen in (seen_left, seen_right))
    mirror_images = in_right(pair, POINTS) * (-1, 1, 1)  # In the axes of the new left camera.
    assert np.allclose(project(made.left, mirror_images), flipped_right)
    assert np.allclose(project(made.right, in_right(made, mirror_images)), flipped_left)
    assert made.rectified == pair.rectified and np.isclose(made.doffs, pair.doffs)
    again = made.mirrored()
    assert np.allclose(project(again.right, in_right(again, POINTS)), seen_right)


@pytest.mark.parametrize("pair", [PAIR, RAW, replace(RAW, left=RAW.right, right=RAW.left)])
def test_upside_down(pair: StereoCalibration) -> None:
    made, turned = pair.upside_down(), POINTS * (1, -1, 1)
    assert np.allclose(project(made.left, turned), (0, 479) + project(pair.left, POINTS) * (1, -1))
    seen = project(pair.right, in_right(pair, POINTS))
    assert np.allclose(project(made.right, in_right(made, turned)), (0, 479) + seen * (1, -1))


# --- meters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [Size(640, 480), Size(320, 240), Size(1280, 960)])
def test_disparity_of_known_geometry_comes_back_in_meters(to: Size) -> None:
    pair = PAIR.scaled(to)
    left, right = project(pair.left, POINTS), project(pair.right, in_right(pair, POINTS))
    assert np.allclose(left[:, 1], right[:, 1]), "rows on rows"
    disparity = np.zeros((to.height, to.width), np.float32)
    disparity[0, : len(POINTS)] = left[:, 0] - right[:, 0]
    depth, valid = pair.meters(disparity)
    assert depth.dtype == np.float32 and valid[0, : len(POINTS)].all()
    assert np.allclose(depth[0, : len(POINTS)], POINTS[:, 2], rtol=1e-5)


def test_what_has_no_depth_is_invalid_and_0() -> None:
    row = [0.0, -PAIR.doffs, -PAIR.doffs - 1, np.nan, np.inf, -np.inf, -PAIR.doffs + 1e-9, 12.0]
    disparity = np.array([row], np.float64)
    pair = StereoCalibration(replace(LEFT, width=8, height=1), replace(RIGHT, width=8, height=1), baseline=0.12)
    depth, valid = pair.meters(disparity)
    assert valid.tolist() == [[True, False, False, False, False, False, False, True]]
    assert depth[0].tolist() == [np.float32(500 * 0.12 / 8), 0, 0, 0, 0, 0, 0, np.float32(500 * 0.12 / 20)]


def test_meters_want_rectified_images_of_their_size() -> None:
    with pytest.raises(InputError, match="Rectify the pair first"):
        RAW.meters(np.ones((480, 640), np.float32))
    with pytest.raises(InputError, match=r"shape \[240, 320\], the calibration is for 640x480"):
        PAIR.meters(np.ones((240, 320), np.float32))


def test_a_straight_pose_is_a_rectified_pair() -> None:
    straight = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert pair_of(LEFT, RIGHT, straight, (-0.12, 0, 0)) == PAIR
    assert not pair_of(LEFT, RIGHT, straight, (0.12, 0, 0)).rectified, "left and right are swapped"
    assert not pair_of(LEFT, RIGHT, straight, (-0.12, 0.01, 0)).rectified
    assert not pair_of(LEFT, replace(RIGHT, fx=600), straight, (-0.12, 0, 0)).rectified
    assert not pair_of(LEFT, RIGHT, TURN, (-0.12, 0, 0)).rectified


# --- on a frame -------------------------------------------------------------------------------------------------------

RGB = np.zeros((480, 640, 3), np.uint8)


def test_a_frame_knows_its_left_camera() -> None:
    frame = Frame(RGB, right=RGB, stereo=PAIR)
    assert frame.intrinsics == LEFT
    assert Frame(RGB, intrinsics=LEFT).stereo is None
    assert replace(frame, captured_at=1.0).stereo is PAIR


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"intrinsics": LEFT.scaled(Size(320, 240))}, "intrinsics is for images of 320x240, the frame is 640x480"),
        ({"right": RGB, "stereo": PAIR.scaled(Size(320, 240))}, "stereo is for images of 320x240"),
        ({"intrinsics": PAIR}, "intrinsics must be Intrinsics, got StereoCalibration"),
        ({"right": RGB, "stereo": LEFT}, "stereo must be StereoCalibration, got Intrinsics"),
        ({"intrinsics": {"fx": 1}}, "intrinsics must be Intrinsics, got dict"),
        ({"stereo": PAIR}, "no right image"),
        ({"right": RGB, "stereo": PAIR, "intrinsics": RIGHT}, "not those of the left camera"),
    ],
)
def test_bad_calibrations_of_a_frame(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Frame(RGB, **given)
    assert caught.value.next_step
