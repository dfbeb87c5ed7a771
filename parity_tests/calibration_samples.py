"""Small calibration files of our own making, one per format, and what each says."""

from typing import NamedTuple

from cdm_export.runtimes.calibration import Calibration, Distortion, DistortionModel, Intrinsics, StereoCalibration

BROWN = Distortion(DistortionModel.RADIAL_TANGENTIAL, (-0.3, 0.1, 0.001, -0.002, 0.05))
LEFT = Intrinsics(500.0, 510.0, 320.5, 240.25, 640, 480)
DISTORTED = Intrinsics(500.0, 510.0, 320.5, 240.25, 640, 480, BROWN)
RIGHT = Intrinsics(500.0, 510.0, 330.5, 240.25, 640, 480)
PAIR = StereoCalibration(LEFT, RIGHT, baseline=0.12)
TURNED = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


class Sample(NamedTuple):
    """A file."""

    name: str
    text: str
    says: Calibration
    fields: tuple[str, ...]
    """Every name whose absence is an error."""


MIDDLEBURY = """cam0=[500 0 320.5; 0 510 240.25; 0 0 1]
cam1=[500 0 330.5; 0 510 240.25; 0 0 1]
doffs=10
baseline=120
width=640
height=480
ndisp=70
isint=0
"""
KITTI_RAW = """calib_time: 01-Jan-2026 12:00:00
S_02: 640 480
K_02: 500 0 320.5 0 510 240.25 0 0 1
D_02: -0.3 0.1 0.001 -0.002 0.05
R_02: 1 0 0 0 1 0 0 0 1
T_02: 0.06 0 0
S_rect_02: 640 480
P_rect_02: 500 0 320.5 30 0 510 240.25 0 0 0 1 0
S_03: 640 480
K_03: 500 0 320.5 0 510 240.25 0 0 1
D_03: 0 0 0 0 0
R_03: 0 -1 0 1 0 0 0 0 1
T_03: -0.06 0 0
S_rect_03: 640 480
P_rect_03: 500 0 330.5 -30 0 510 240.25 0 0 0 1 0
"""
KITTI_OBJECT = """P0: 500 0 320.5 0 0 510 240.25 0 0 0 1 0
P1: 500 0 320.5 -60 0 510 240.25 0 0 0 1 0
P2: 500 0 320.5 30 0 510 240.25 0 0 0 1 0
P3: 500 0 330.5 -30 0 510 240.25 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
"""
OPENCV_MONO = """%YAML:1.0
---
calibration_time: "Thu Jan  1 12:00:00 2026"
image_width: 640
image_height: 480
flags: 0
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 500., 0., 3.205e+02, 0., 510., 240.25,
       0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -0.3, 0.1, 1e-3, -2e-3, .05 ]
"""
_MATRIX = "!!opencv-matrix\n   rows: {}\n   cols: {}\n   dt: d\n   data: [ {} ]\n"


def _matrix(name: str, rows: int, columns: int, numbers: str) -> str:
    return f"{name}: " + _MATRIX.format(rows, columns, numbers)


_EYES = "".join(
    (
        _matrix("M1", 3, 3, "500., 0., 320.5, 0., 510., 240.25, 0., 0., 1."),
        _matrix("D1", 1, 5, "-0.3, 0.1, 0.001, -0.002, 0.05"),
        _matrix("M2", 3, 3, "500., 0., 320.5, 0., 510., 240.25, 0., 0., 1."),
        _matrix("D2", 1, 5, "0., 0., 0., 0., 0."),
        _matrix("R", 3, 3, "0., -1., 0., 1., 0., 0., 0., 0., 1."),
        _matrix("T", 3, 1, "-120., 0., 0."),
    )
)
OPENCV_STEREO = "%YAML:1.0\n---\nimage_size: [ 640, 480 ]\ntranslation_unit: mm\n" + _EYES
OPENCV_RECTIFIED = OPENCV_STEREO + "".join(
    (
        _matrix("P1", 3, 4, "500., 0., 320.5, 0., 0., 510., 240.25, 0., 0., 0., 1., 0."),
        _matrix("P2", 3, 4, "500., 0., 330.5, -60000., 0., 510., 240.25, 0., 0., 0., 1., 0."),
    )
)
OPENCV_XML = """<?xml version="1.0"?>
<opencv_storage>
<image_width>640</image_width>
<image_height>480</image_height>
<camera_matrix type_id="opencv-matrix">
  <rows>3</rows>
  <cols>3</cols>
  <dt>d</dt>
  <data>
    500. 0. 320.5 0. 510. 240.25
    0. 0. 1.</data></camera_matrix>
<distortion_coefficients type_id="opencv-matrix">
  <rows>5</rows>
  <cols>1</cols>
  <dt>d</dt>
  <data>-0.3 0.1 0.001 -0.002 0.05</data></distortion_coefficients>
</opencv_storage>
"""


def ros(cx: float, tx: float, model: str = "plumb_bob", lens: str = "-0.3, 0.1, 0.001, -0.002, 0.05") -> str:
    """CameraInfo as camera_calibration writes it; ``tx`` is P[3]."""
    return f"""image_width: 640
image_height: 480
camera_name: narrow_stereo/left   # a comment
camera_matrix:
  rows: 3
  cols: 3
  data: [500.0, 0.0, 320.5, 0.0, 510.0, 240.25, 0.0, 0.0, 1.0]
distortion_model: {model}
distortion_coefficients:
  rows: 1
  cols: 5
  data: [{lens}]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [500.0, 0, {cx}, {tx}, 0, 510.0, 240.25, 0, 0, 0, 1, 0]
"""


ROS = ros(320.5, 0)
ROS_ECHO = """header:
  stamp:
    sec: 1
    nanosec: 2
  frame_id: "camera: optical"
height: 480
width: 640
distortion_model: plumb_bob
d:
- -0.3
- 0.1
- 0.001
- -0.002
- 0.05
k: [500.0, 0.0, 320.5,
    0.0, 510.0, 240.25, 0.0, 0.0, 1.0]
r:
- 1.0
p: []
binning_x: 0
binning_y: 0
roi:
  x_offset: 0
  y_offset: 0
  height: 0
  width: 0
  do_rectify: false
---
"""
OPEN3D = """{
    "height" : 480,
    "width" : 640,
    "intrinsic_matrix" : [
        500, 0, 0,
        0, 510, 0,
        320.5, 240.25, 1
    ]
}
"""
_RS = '"width": 640, "height": 480, "ppy": 240.25, "fx": 500, "fy": 510'
REALSENSE = (
    '{"ppx": 320.5, ' + _RS + ',\n "model": "distortion.brown_conrady", "coeffs": [-0.3, 0.1, 0.001, -0.002, 0.05]}\n'
)
_NO_LENS = '"model": "distortion.inverse_brown_conrady", "coeffs": [0.0, 0.0, 0.0, 0.0, 0.0]'
REALSENSE_PAIR = (
    f'{{"left": {{"ppx": 320.5, {_RS}, {_NO_LENS}}},\n"right": {{"ppx": 330.5, {_RS}, {_NO_LENS}}},\n'
    '"extrinsics": {"rotation": [1, 0, 0, 0, 1, 0, 0, 0, 1], "translation": [-0.12, 0, 0]}}\n'
)
OWN = """{"format": "cdm-export calibration 1",
 "fx": 500, "fy": 510, "cx": 320.5, "cy": 240.25, "width": 640, "height": 480,
 "distortion": {"model": "radial_tangential", "coefficients": [-0.3, 0.1, 0.001, -0.002, 0.05]}}
"""
OWN_PAIR = """{"format": "cdm-export calibration 1",
 "left": {"fx": 500, "fy": 510, "cx": 320.5, "cy": 240.25, "width": 640, "height": 480},
 "right": {"fx": 500, "fy": 510, "cx": 330.5, "cy": 240.25, "width": 640, "height": 480},
 "baseline": 0.12}
"""
POSED = StereoCalibration(DISTORTED, LEFT, rotation=TURNED, translation=(-0.12, 0.0, 0.0))
_MATRICES = ("rows", "cols", "data")
_BARE = ("fx", "fy", "cx", "cy", "width", "height")

SAMPLES = (
    Sample("middlebury.txt", MIDDLEBURY, PAIR, ("cam1", "doffs", "baseline", "width", "height")),
    Sample("calib_cam_to_cam.txt", KITTI_RAW, PAIR, ("S_rect_02", "P_rect_02", "S_rect_03", "P_rect_03")),
    Sample("opencv.yml", OPENCV_MONO, DISTORTED, ("image_height", "distortion_coefficients", *_MATRICES)),
    Sample("stereo.yml", OPENCV_STEREO, POSED, ("translation_unit", "D1", "M2", "D2", "R", "T", *_MATRICES)),
    Sample("rectified.yml", OPENCV_RECTIFIED, PAIR, ("translation_unit",)),
    Sample("opencv.xml", OPENCV_XML, DISTORTED, ("image_height", "distortion_coefficients", *_MATRICES)),
    Sample("ros.yaml", ROS, DISTORTED, ("image_width", "image_height", "camera_matrix", "distortion_coefficients")),
    Sample("echo.yaml", ROS_ECHO, DISTORTED, ("width", "height", "d", "k")),
    Sample("open3d.json", OPEN3D, LEFT, ("width", "height")),
    Sample("realsense.json", REALSENSE, DISTORTED, ("width", "height", "ppy", "fx", "fy", "model", "coeffs")),
    Sample("realsense_pair.json", REALSENSE_PAIR, PAIR, ("right", "extrinsics", "rotation", "translation")),
    Sample("own.json", OWN, DISTORTED, (*_BARE, "model", "coefficients")),
    Sample("own_pair.json", OWN_PAIR, PAIR, (*_BARE, "right", "baseline")),
)
