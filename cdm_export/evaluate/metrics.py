"""Metrics of depth and of disparity against ground truth, and the alignments that networks without a scale need.

NumPy, in float64 whatever comes in. No pixel is ever left out in silence: where a mask says that truth is, a prediction
that is not finite is an error, and so are a mask without a pixel and maps of different sizes. Shares are 0..1.

Definitions: Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network" (arXiv 1406.2283)
for depth; Menze and Geiger, "Object Scene Flow for Autonomous Vehicles" (CVPR 2015) for D1; Scharstein et al.,
"High-Resolution Stereo Datasets with Subpixel-Accurate Ground Truth" (GCPR 2014) for bad pixels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError, did_you_mean

Map = NDArray[Any]
"""[H, W], a number per pixel."""
Mask = NDArray[np.bool_]
"""[H, W], True where pixels count."""
Values = NDArray[np.float64]
"""[N], those of the pixels that count."""

DELTA = 1.25
"""Ratio to the truth, either way, that a1 asks for; a2 and a3 for its square and its cube."""
D1_PIXELS, D1_SHARE = 3.0, 0.05
"""A disparity is an outlier of D1 when its error is above both: so many pixels, and such a share of the truth."""

AlignmentKind = Literal["none", "median", "lower_median", "scale", "scale_shift_depth", "scale_shift_inverse"]
"""How a prediction is brought to the truth's scale before it is judged.

``median``: ratio of the medians; ``lower_median``: likewise, with the lower of the two middle values of an even number,
as PyTorch's median has it; ``scale``: least squares; ``scale_shift_depth``: least squares of depth;
``scale_shift_inverse``: least squares of inverse depth, for predictions that are inverse depth.
"""


def get_alignment(name: str) -> AlignmentKind:
    """An alignment by its name. Raises InputError that names the closest one."""
    kinds: tuple[AlignmentKind, ...] = get_args(AlignmentKind)
    for kind in kinds:
        if kind == name:
            return kind
    raise InputError(f"unknown alignment '{name}'. {did_you_mean(name, list(kinds))}")


@dataclass(frozen=True)
class DepthMetrics:
    """Depth of one image against its truth, or the mean over images."""

    pixels: int
    """Pixels they were taken over."""
    abs_rel: float
    """Mean of |depth - truth| / truth."""
    sq_rel: float
    """Mean of (depth - truth)^2 / truth, meters."""
    rmse: float
    """Root of the mean of (depth - truth)^2, meters."""
    rmse_log: float
    """Root of the mean of (ln depth - ln truth)^2."""
    rmse_log10: float
    """Likewise of decimal logarithms: what BDEdepth's evaluation of Make3D prints as its rmse log."""
    log10: float
    """Mean of |log10 depth - log10 truth|."""
    silog_root_x100: float
    """100 times the root of the variance of ln depth - ln truth, variance factor 1: BTS's, mmsegmentation's and the
    KITTI depth benchmark's form of the scale-invariant error."""
    a05: float
    """Share of pixels whose ratio to the truth, either way, is below the root of 1.25."""
    a1: float
    """Below 1.25."""
    a2: float
    """Below 1.25^2."""
    a3: float
    """Below 1.25^3."""


@dataclass(frozen=True)
class StereoMetrics:
    """Disparity of one image against its truth, or the mean over images or pixels."""

    pixels: int
    """Pixels they were taken over."""
    epe: float
    """Mean of |disparity - truth|, pixels: the end-point error of a displacement along the row."""
    rms: float
    """Root of the mean of (disparity - truth)^2, pixels."""
    bad_05: float
    """Share of pixels whose error is above 0.5 pixels."""
    bad_1: float
    """Above 1 pixel."""
    bad_2: float
    """Above 2 pixels."""
    bad_3: float
    """Above 3 pixels."""
    bad_4: float
    """Above 4 pixels."""
    d1: float
    """Above 3 pixels and above 5 % of the truth."""


@dataclass(frozen=True)
class StereoRegions:
    """Disparity of one image, by the object map that comes with KITTI 2015; None where a region has no truth."""

    all: StereoMetrics
    """Everywhere."""
    background: StereoMetrics | None
    """Where the map is 0."""
    foreground: StereoMetrics | None
    """Where it has an object."""


@dataclass(frozen=True)
class Aligned:
    """A prediction at the truth's scale."""

    depth: NDArray[np.float64]
    """[H, W], meters where the truth is in meters."""
    scale: float
    """What the prediction was multiplied with."""
    shift: float
    """What was added; of depth, or of inverse depth where that was aligned."""


def depth_metrics(depth: Map, truth: Map, mask: Mask) -> DepthMetrics:
    """Depth [H, W] against truth [H, W], both in one unit, where ``mask`` [H, W] is True.

    Raises InputError for maps of different sizes, a mask without a pixel, and, inside it, depth or truth that is not
    finite or not above 0.
    """
    guess, exact = _counted(depth, truth, mask)
    for name, values in (("depth", guess), ("the truth", exact)):
        if not (values > 0).all():
            raise InputError(
                f"{name} is 0 or below at {_count(values <= 0)} pixels that count: depth metrics need it above 0",
                "Leave pixels without truth out of the mask, and clamp predictions as the protocol says.",
            )
    error = guess - exact
    logs = np.log(guess) - np.log(exact)
    ratio = np.maximum(guess / exact, exact / guess)
    log_error = _mean(logs**2) ** 0.5
    ln10 = float(np.log(10))
    return DepthMetrics(
        pixels=exact.size,
        abs_rel=_mean(np.abs(error) / exact),
        sq_rel=_mean(error**2 / exact),
        rmse=_mean(error**2) ** 0.5,
        rmse_log=log_error,
        rmse_log10=log_error / ln10,
        log10=_mean(np.abs(logs)) / ln10,
        silog_root_x100=100 * float(np.var(logs)) ** 0.5,
        a05=_mean(ratio < DELTA**0.5),
        a1=_mean(ratio < DELTA),
        a2=_mean(ratio < DELTA**2),
        a3=_mean(ratio < DELTA**3),
    )


def stereo_metrics(disparity: Map, truth: Map, mask: Mask) -> StereoMetrics:
    """Disparity [H, W] against truth [H, W], pixels of the truth's image, where ``mask`` [H, W] is True.

    Raises InputError for maps of different sizes, a mask without a pixel, and, inside it, disparity that is not finite
    or truth that is not above 0. A disparity of 0 or below is an answer like any other, and judged.
    """
    guess, exact = _counted(disparity, truth, mask)
    if not (exact > 0).all():
        raise InputError(
            f"the true disparity is 0 or below at {_count(exact <= 0)} pixels that count",
            "Leave pixels without truth out of the mask.",
        )
    error = np.abs(guess - exact)
    return StereoMetrics(
        pixels=exact.size,
        epe=_mean(error),
        rms=_mean(error**2) ** 0.5,
        bad_05=_mean(error > 0.5),
        bad_1=_mean(error > 1),
        bad_2=_mean(error > 2),
        bad_3=_mean(error > 3),
        bad_4=_mean(error > 4),
        d1=_mean((error > D1_PIXELS) & (error / exact > D1_SHARE)),
    )


def stereo_regions(disparity: Map, truth: Map, mask: Mask, foreground: Mask) -> StereoRegions:
    """``stereo_metrics`` everywhere, and apart where ``foreground`` [H, W] is False and True: D1-all, D1-bg, D1-fg."""
    everywhere = stereo_metrics(disparity, truth, mask)
    _refuse_other_shape("the foreground", foreground, truth)
    _refuse_no_mask(foreground)
    parts = [
        stereo_metrics(disparity, truth, part) if part.any() else None
        for part in (mask & ~foreground, mask & foreground)
    ]
    return StereoRegions(everywhere, *parts)


_M = TypeVar("_M", DepthMetrics, StereoMetrics)


def mean_over_images(metrics: Sequence[_M]) -> _M:
    """Every image counts the same, however many pixels of it have truth; ``pixels`` is their sum."""
    return _mean_of(metrics, np.ones(len(metrics)))


def mean_over_pixels(metrics: Sequence[StereoMetrics]) -> StereoMetrics:
    """Every pixel counts the same, as if all images were one."""
    mean = _mean_of(metrics, np.array([each.pixels for each in metrics], dtype=np.float64))
    squares = sum(each.pixels * each.rms**2 for each in metrics)
    return StereoMetrics(**{**asdict(mean), "rms": (squares / mean.pixels) ** 0.5})


def truth_mask(truth: Map, low: float = 0.0, high: float = np.inf) -> Mask:
    """Where there is truth [H, W]: finite, and between ``low`` and ``high``, both excluded."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(truth) & (truth > low) & (truth < high)


def align(prediction: Map, truth: Map, mask: Mask, kind: AlignmentKind, *, farthest: float = np.inf) -> Aligned:
    """A prediction [H, W] at the scale of the truth [H, W], which is depth; only pixels in ``mask`` decide.

    The prediction is depth, but for ``scale_shift_inverse``, where it is inverse depth: there ``farthest`` is the depth
    of what the fit puts beyond it, or behind the camera; where that is infinite such a pixel in the mask is an error.
    Raises InputError as ``depth_metrics`` does, and where nothing can be fitted: a constant prediction, a median of 0.
    """
    guess, exact = _counted(prediction, truth, mask)
    if not (exact > 0).all():
        raise InputError(f"the true depth is 0 or below at {_count(exact <= 0)} pixels that count")
    whole = np.asarray(prediction, dtype=np.float64)
    if kind == "scale_shift_inverse":
        scale, shift = scale_and_shift(guess, 1 / exact)
        inverse = scale * whole + shift
        if not np.isfinite(farthest) and not (inverse[mask] > 0).all():
            raise InputError(
                f"the fit puts {_count(inverse[mask] <= 0)} pixels that count beyond infinity",
                "Take a protocol with a largest depth, where they have that.",
            )
        with np.errstate(divide="ignore"):
            return Aligned(1 / np.maximum(inverse, 1 / farthest), scale, shift)
    scale, shift = _fit(guess, exact, kind)
    return Aligned(scale * whole + shift, scale, shift)


def scale_and_shift(values: Values, target: Values) -> tuple[float, float]:
    """Scale and shift of ``values`` [N] with the least squared distance to ``target`` [N].

    Raises InputError for values that are all one.
    """
    middle, middle_target = _mean(values), _mean(target)
    centered = values - middle
    spread = float((centered**2).sum())
    # Rounding alone makes a spread of this size out of a constant.
    if not spread > values.size * (np.finfo(np.float64).eps * max(abs(middle), 1e-300)) ** 2:
        raise InputError("the prediction is constant: no scale and shift bring it to the truth")
    scale = float((centered * (target - middle_target)).sum()) / spread
    return scale, middle_target - scale * middle


def _fit(guess: Values, exact: Values, kind: AlignmentKind) -> tuple[float, float]:
    """Scale and shift of depth."""
    if kind == "none":
        return 1.0, 0.0
    if kind == "scale_shift_depth":
        return scale_and_shift(guess, exact)
    if kind == "scale":
        above, below = float((guess * exact).sum()), float((guess**2).sum())
    elif kind == "median":
        above, below = float(np.median(exact)), float(np.median(guess))
    elif kind == "lower_median":
        above, below = _lower_median(exact), _lower_median(guess)
    else:
        raise InputError(f"'{kind}' is no alignment of depth")
    if not below > 0 or not above > 0:
        raise InputError(f"the prediction cannot be scaled by its {kind.replace('_', ' ')}, which is {below:g}")
    return above / below, 0.0


def _lower_median(values: Values) -> float:
    middle = (values.size - 1) // 2
    return float(np.partition(values, middle)[middle])


def _counted(prediction: Map, truth: Map, mask: Mask) -> tuple[Values, Values]:
    """Prediction and truth of the pixels that count, float64."""
    if truth.ndim != 2 or not truth.size:
        raise InputError(f"the truth has shape {list(truth.shape)}, expected [height, width]")
    _refuse_other_shape("the prediction", prediction, truth)
    _refuse_other_shape("the mask", mask, truth)
    _refuse_no_mask(mask)
    if not mask.any():
        raise InputError(
            "there is no pixel to judge: no truth, or none inside the crop and the range of the protocol",
            "See that the truth is of this image, and in meters or pixels.",
        )
    guess, exact = (np.asarray(each[mask], dtype=np.float64) for each in (prediction, truth))
    for name, values in (("the prediction", guess), ("the truth", exact)):
        if bad := _count(~np.isfinite(values)):
            raise InputError(f"{name} is NaN or infinite at {bad} of {values.size} pixels that count")
    return guess, exact


def _refuse_other_shape(name: str, given: Map, truth: Map) -> None:
    if given.shape != truth.shape:
        raise InputError(f"{name} has shape {list(given.shape)}, the truth {list(truth.shape)}")


def _refuse_no_mask(mask: Mask) -> None:
    if mask.dtype != np.bool_:
        raise InputError(f"a mask is of booleans, got {mask.dtype}")


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64))


def _count(where: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(where))


def _mean_of(metrics: Sequence[_M], weights: NDArray[np.float64]) -> _M:
    """Weighted mean of every field but ``pixels``, which is summed."""
    if not metrics:
        raise InputError("there is no image to take the mean over")
    rows = [asdict(each) for each in metrics]
    means = {name: float(np.average([row[name] for row in rows], weights=weights)) for name in rows[0]}
    return type(metrics[0])(**{**means, "pixels": sum(row["pixels"] for row in rows)})
