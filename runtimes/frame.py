"""What goes in and what comes out: a camera frame, and refined depth with its health."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.arguments import is_number
from cdm_export.runtimes.calibration import Calibration, Intrinsics, StereoCalibration
from cdm_export.runtimes.contract import Semantics, Size
from cdm_export.runtimes.errors import InputError


@dataclass(frozen=True)
class Frame:
    """One moment of a camera. Nothing is copied; do not write to the arrays afterwards."""

    rgb: NDArray[np.uint8]
    """[H, W, 3] uint8, true RGB order (not OpenCV's BGR)."""
    depth: NDArray[np.float32] | None = None
    """[H, W] float32, meters; 0, negative, NaN and Inf mean no reading."""
    right: NDArray[np.uint8] | None = None
    """[H, W, 3] uint8, the right image of a rectified pair whose left image is ``rgb``; stereo models only."""
    intrinsics: Intrinsics | None = None
    """Of the camera that took ``rgb``; where only ``stereo`` is given, its left camera."""
    stereo: StereoCalibration | None = None
    """Of both cameras, for meters; only with ``right``."""
    captured_at: float | None = None
    """``time.monotonic()`` at capture, seconds; None leaves ``health.age`` None."""

    def __post_init__(self) -> None:
        for name, array in (("rgb", self.rgb), ("depth", self.depth), ("right", self.right)):
            if not isinstance(array, np.ndarray) and (array is not None or name == "rgb"):
                raise InputError(
                    f"{name} must be a NumPy array, got {type(array).__name__}", f"Convert it: numpy.asarray({name})"
                )
        when = self.captured_at
        if when is not None and (not (is_number(when) and math.isfinite(when))):
            raise InputError(
                f"captured_at must be a finite number of seconds, got {when!r:.40}", "Use time.monotonic()."
            )
        for name, image in (("rgb", self.rgb), ("right", self.right)):
            if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
                raise InputError(
                    f"{name} must be uint8 of shape [H, W, 3], got {image.dtype} of shape {list(image.shape)}"
                )
        if self.right is not None and self.right.shape != self.rgb.shape:
            raise InputError(
                f"the images of a pair differ in size: right is {Size.of(self.right)}, expected {self.size} like rgb",
                "Rectify or resize the pair to one size first.",
            )
        self._check_calibration()
        depth = self.depth
        if depth is None:
            return
        if not np.issubdtype(depth.dtype, np.floating):
            raise InputError(
                f"depth must be floating point meters, got {depth.dtype}",
                "Divide raw sensor units by the depth scale first: depth = raw / 1000 for millimeters.",
            )
        if depth.shape != self.rgb.shape[:2]:
            raise InputError(
                f"color and depth differ in size: color is {Size.of(self.rgb)}, depth has shape {list(depth.shape)}",
                "Align the depth image to the color image first.",
            )
        if depth.dtype != np.float32:
            object.__setattr__(self, "depth", depth.astype(np.float32))

    def _check_calibration(self) -> None:
        kinds: tuple[tuple[str, Calibration | None, type[Intrinsics] | type[StereoCalibration]], ...] = (
            ("intrinsics", self.intrinsics, Intrinsics),
            ("stereo", self.stereo, StereoCalibration),
        )
        for name, calibration, kind in kinds:
            if calibration is None:
                continue
            if not isinstance(calibration, kind):
                raise InputError(
                    f"{name} must be {kind.__name__}, got {type(calibration).__name__}",
                    "Read one from a file: cdm_export.read_calibration(path).",
                )
            if calibration.size != self.size:
                raise InputError(
                    f"{name} is for images of {calibration.size}, the frame is {self.size}",
                    f"If the images were resized as a whole, scale it: {name}.scaled(Size{tuple(self.size)}).",
                )
        if self.stereo is None:
            return
        if self.right is None:
            raise InputError(
                "a calibration of two cameras is given, but no right image",
                "Give right as well, or of the left camera alone: intrinsics=stereo.left.",
            )
        if self.intrinsics is None:
            object.__setattr__(self, "intrinsics", self.stereo.left)
        elif self.intrinsics != self.stereo.left:
            raise InputError(
                "intrinsics are not those of the left camera in stereo",
                "Give one of the two, or intrinsics=stereo.left.",
            )

    @property
    def size(self) -> Size:
        """Size of the color image, of the depth image and of the right image."""
        return Size.of(self.rgb)


@dataclass(frozen=True)
class Timing:
    """Milliseconds spent in each stage of one call."""

    preprocess: float
    """Frame -> network inputs."""
    inference: float
    """Network inputs -> raw output, transfers included."""
    postprocess: float
    """Raw output -> result at camera size."""
    device: dict[str, float] = field(default_factory=dict)
    """What of ``inference`` the device's own clock saw, by stage; empty where it has none that the runtime reads."""

    @property
    def total(self) -> float:
        """Sum of the three stages, ms."""
        return self.preprocess + self.inference + self.postprocess


@dataclass(frozen=True)
class Health:
    """Signs that a result should not be trusted; cheap enough to look at every frame."""

    non_finite_share: float
    """Share of the raw network output that is NaN or Inf, 0..1; anything above 0 is a defect."""
    valid_share: float
    """Share of result pixels that are valid, 0..1."""
    sensor_share: float | None
    """Share of sensor pixels with a usable reading, 0..1; 0 for a covered lens; None without depth input."""
    age: float | None
    """Seconds from ``Frame.captured_at`` to the result; None when the frame does not say."""
    outside_share: float | None = None
    """Share of the sensor's readings (finite, above 0) that are nearer than 0.07 m or beyond ``max_depth``, 0..1: above
    0.5 the depth is probably in another unit. None where the model reads no depth, and without any reading."""


@dataclass(frozen=True)
class DepthResult:
    """Refined depth of one frame; the arrays belong to the caller."""

    values: NDArray[np.float32]
    """[H, W] float32 at camera size: meters for metric models, pixels of disparity for stereo models, else the relative
    quantity; 0 where not valid."""
    valid: NDArray[np.bool_]
    """[H, W] bool: finite, and nearer than the contract's ``far``; of disparity, finite and above 0."""
    semantics: Semantics
    """What the network predicts."""
    unit: str
    """Unit of ``values``: ``m``; ``px`` of the camera's left image for disparity; empty for other models until somebody
    gives them a scale."""
    timing: Timing
    """Where the time went."""
    health: Health
    """Whether to trust it."""
    scaled: str = ""
    """How relative values became meters (``metric_scale.py``); empty where the network predicts what they are."""

    @property
    def depth_m(self) -> NDArray[np.float32]:
        """[H, W] float32 meters, 0 where not ``valid``. Raises InputError for relative models without a scale, and for
        disparity."""
        if self.unit == "m":
            return self.values
        if self.semantics is Semantics.DISPARITY:
            raise InputError(
                "this model predicts disparity in pixels, which becomes meters with a calibration only",
                "Give it the pair's, cdm_export.to_meters(result, stereo): focal length in pixels * baseline in meters "
                "/ (disparity + distance of the principal points). Or use .values.",
            )
        raise InputError(
            f"this model predicts {self.semantics.value}, which has no metric scale",
            "Use .values, or give it a scale first: cdm_export.KnownRange, cdm_export.SensorAlignment.",
        )
