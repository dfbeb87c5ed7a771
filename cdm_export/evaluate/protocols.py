"""How benchmarks are judged, as data: which pixels, at what scale, averaged over what. Each says where that is written.

Two evaluations of one data set that differ in a crop differ in every number, so each has a name of its own.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cdm_export.evaluate.metrics import (
    Aligned,
    AlignmentKind,
    DepthMetrics,
    Map,
    Mask,
    StereoMetrics,
    align,
    depth_metrics,
    stereo_metrics,
    truth_mask,
)
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Crop:
    """Rectangle of an image, ends excluded."""

    rows: tuple[float, float]
    """First row and the one after the last."""
    columns: tuple[float, float]
    """Likewise."""
    of: Size | None = None
    """Size of the image whose pixels are meant; None where they are shares of the sides, cut down to whole pixels."""

    def box(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Rows and columns of a map of this shape [H, W]. Raises InputError for a size that it is not made for."""
        if self.of is not None and shape != (self.of.height, self.of.width):
            raise InputError(f"the crop is made for maps of {self.of}, got {Size(shape[1], shape[0])}")
        scales = (1, 1) if self.of is not None else shape
        rows, columns = (
            slice(int(start * scale), int(stop * scale))
            for (start, stop), scale in zip((self.rows, self.columns), scales, strict=True)
        )
        return rows, columns

    def mask(self, shape: tuple[int, ...]) -> Mask:
        """True inside, [H, W]."""
        inside = np.zeros(shape, dtype=np.bool_)
        inside[self.box(shape)] = True
        return inside


GARG = Crop((0.40810811, 0.99189189), (0.03594771, 0.96405229))
"""KITTI: Garg et al., "Unsupervised CNN for Single View Depth Estimation" (arXiv 1603.04992)."""
EIGEN_KITTI = Crop((0.3324324, 0.91351351), (0.0359477, 0.96405229))
"""KITTI: Eigen et al. (arXiv 1406.2283), as BTS has it."""
EIGEN_NYU = Crop((45, 471), (41, 601), Size(640, 480))
"""NYUv2: likewise."""


@dataclass(frozen=True)
class DepthProtocol:
    """How depth of one camera is judged."""

    name: str
    """On the command line."""
    title: str
    """In words: data set, split, and what the truth is."""
    source: str
    """Whose evaluation this is."""
    images: int | None
    """Of the test set; None where that is open."""
    truth_range: tuple[float, float]
    """Meters, both ends excluded: truth outside is none."""
    clamp: tuple[float, float] | None
    """Meters: aligned predictions are brought into this range; None where they stay as they are."""
    alignment: AlignmentKind
    """What predictions without a scale are given one by; those in meters are compared as they are."""
    crop: Crop | None = None
    """Part of the truth that counts; None for all of it."""
    shown: Crop | None = None
    """Part of the image that the network is shown, where that is not all of it; the prediction is of this part."""
    covers: Crop | None = None
    """Part of the truth that this is, and to whose size the prediction is resized; ``placed`` puts it there."""
    resized: Literal["depth", "disparity"] = "disparity"
    """What of a prediction is resized to the truth's size."""
    resize: Literal["bilinear", "bilinear_corners", "nearest"] = "bilinear"
    """How: half-pixel centers, aligned corners, or the nearest pixel."""

    def mask(self, truth: Map) -> Mask:
        """Pixels of a truth [H, W], meters, that count. Raises InputError where the crop is for another size."""
        valid = truth_mask(truth, *self.truth_range)
        return valid if self.crop is None else valid & self.crop.mask(truth.shape)

    def placed(self, prediction: Map, shape: tuple[int, ...]) -> Map:
        """A prediction of the part that was shown in a map of the truth's shape [H, W], NaN around it."""
        if self.covers is None:
            return prediction
        whole = np.full(shape, np.nan)
        box = self.covers.box(shape)
        if whole[box].shape != prediction.shape:
            raise InputError(f"the prediction has shape {list(prediction.shape)}, expected {list(whole[box].shape)}")
        whole[box] = prediction
        return whole

    def judge(self, prediction: Map, truth: Map, *, metric: bool = False) -> tuple[DepthMetrics, Aligned]:
        """Metrics of a prediction [H, W] against a truth [H, W], meters, and the prediction as it was judged.

        The prediction is depth, or inverse depth where ``alignment`` is of that. ``metric``: it is in meters, and not
        aligned. Raises InputError as ``depth_metrics`` and ``align`` do.
        """
        mask = self.mask(truth)
        kind = "none" if metric else self.alignment
        farthest = np.inf if self.clamp is None else self.clamp[1]
        aligned = align(prediction, truth, mask, kind, farthest=farthest)
        if self.clamp is not None:
            aligned = replace(aligned, depth=np.clip(aligned.depth, *self.clamp))
        return depth_metrics(aligned.depth, truth, mask), aligned


@dataclass(frozen=True)
class StereoProtocol:
    """How disparity of a rectified pair is judged."""

    name: str
    """On the command line."""
    title: str
    """In words: data set, and which pixels have truth."""
    source: str
    """Whose evaluation this is."""
    images: int | None
    """Pairs with public truth; None where that is open."""
    average: Literal["images", "pixels"]
    """What counts the same."""
    headline: tuple[str, ...]
    """Fields of ``StereoMetrics`` that the benchmark is known for, the first one ranks."""
    max_disparity: float = np.inf
    """Pixels, excluded: larger truth is none."""

    def mask(self, truth: Map, visible: Mask | None = None) -> Mask:
        """Pixels of a truth [H, W] that count: above 0, finite, and ``visible`` [H, W] where a mask comes with it."""
        valid = truth_mask(truth, 0.0, self.max_disparity)
        if visible is None:
            return valid
        if visible.shape != truth.shape:
            raise InputError(f"the mask has shape {list(visible.shape)}, the truth {list(truth.shape)}")
        return valid & visible

    def judge(self, disparity: Map, truth: Map, visible: Mask | None = None) -> StereoMetrics:
        """Metrics of a disparity [H, W] against a truth [H, W], both in pixels of the truth's image."""
        return stereo_metrics(disparity, truth, self.mask(truth, visible))


FOLDER_DEPTH = DepthProtocol(
    "folder",
    "depth of your own frames, every pixel with truth",
    "cdm-export: predictions are limited to 1 mm to 1 km, so that none is infinite",
    images=None,
    truth_range=(1e-3, np.inf),
    clamp=(1e-3, 1e3),
    alignment="median",
)
FOLDER_STEREO = StereoProtocol(
    "folder",
    "disparity of your own pairs, every pixel with truth",
    "cdm-export; D1 as in KITTI's",
    images=None,
    average="images",
    headline=("epe", "d1"),
)

_METERS_80 = (1e-3, 80.0)
_BDE = "BDEdepth, evaluate_depth.py"
_BTS = "BTS (arXiv 1907.10326), eval_with_pngs.py"

DEPTH_PROTOCOLS: dict[str, DepthProtocol] = {
    protocol.name: protocol
    for protocol in (
        DepthProtocol(
            "kitti-eigen",
            "KITTI, Eigen's test split, LiDAR points as measured, Garg crop, up to 80 m, median scaling",
            f"{_BDE}; Monodepth2 alike, but for half-pixel centers and the mean of two middle values as the median",
            images=697,
            truth_range=_METERS_80,
            clamp=_METERS_80,
            alignment="lower_median",
            crop=GARG,
            resize="bilinear_corners",
        ),
        DepthProtocol(
            "kitti-eigen-monodepth2",
            "KITTI, Eigen's test split, LiDAR points as measured, Garg crop, up to 80 m, median scaling",
            "Monodepth2 (arXiv 1806.01260), evaluate_depth.py",
            images=697,
            truth_range=_METERS_80,
            clamp=_METERS_80,
            alignment="median",
            crop=GARG,
        ),
        DepthProtocol(
            "kitti-eigen-benchmark",
            "KITTI, Eigen's test split with accumulated LiDAR points, no crop, any truth, median scaling",
            f"{_BDE}, eigen_benchmark: only the prediction is limited to 80 m",
            images=652,
            truth_range=(0.0, np.inf),
            clamp=_METERS_80,
            alignment="lower_median",
            resize="bilinear_corners",
        ),
        DepthProtocol(
            "kitti-eigen-garg",
            "KITTI, Eigen's test split with accumulated LiDAR points, Garg crop, up to 80 m",
            f"{_BTS} --garg_crop: metric networks, compared as they are",
            images=652,
            truth_range=_METERS_80,
            clamp=_METERS_80,
            alignment="none",
            crop=GARG,
            resized="depth",
        ),
        DepthProtocol(
            "nyuv2",
            "NYU Depth V2, 654 test images, Eigen crop, up to 10 m",
            f"{_BTS} --eigen_crop: metric networks, compared as they are",
            images=654,
            truth_range=(1e-3, 10.0),
            clamp=(1e-3, 10.0),
            alignment="none",
            crop=EIGEN_NYU,
            resized="depth",
        ),
        DepthProtocol(
            "nyuv2-bdedepth",
            "NYU Depth V2, 654 test images, cropped before the network sees them, up to 10 m, median scaling",
            f"{_BDE}, datasets/nyuv2_dataset.py: rows 44 to 470, columns 40 to 600",
            images=654,
            truth_range=(0.0, 10.0),
            clamp=(0.0, 10.0),
            alignment="lower_median",
            crop=Crop((44, 471), (40, 601), Size(640, 480)),
            shown=Crop((44, 471), (40, 601), Size(640, 480)),
            covers=Crop((44, 471), (40, 601), Size(640, 480)),
            resized="depth",
            resize="nearest",
        ),
        DepthProtocol(
            "make3d",
            "Make3D, 134 test images, the middle rows, up to 70 m, median scaling",
            f"{_BDE}, datasets/make3d_dataset.py; its rmse log is of decimal logarithms: rmse_log10",
            images=134,
            truth_range=(0.0, 70.0),
            clamp=(0.0, 70.0),
            alignment="lower_median",
            crop=Crop((17, 38), (0, 305), Size(305, 55)),
            shown=Crop((710, 1562), (0, 1704), Size(1704, 2272)),
            covers=Crop((17, 38), (0, 305), Size(305, 55)),
            resized="depth",
            resize="nearest",
        ),
        DepthProtocol(
            "cityscapes",
            "Cityscapes, 1525 test images, depth from published disparity, middle of it, up to 80 m, median scaling",
            f"{_BDE}, after ManyDepth (arXiv 2104.14540): the lower quarter is cut off before the network",
            images=1525,
            truth_range=_METERS_80,
            clamp=_METERS_80,
            alignment="lower_median",
            crop=Crop((256, 768), (192, 1856), Size(2048, 1024)),
            shown=Crop((0, 768), (0, 2048), Size(2048, 1024)),
            covers=Crop((0, 768), (0, 2048), Size(2048, 1024)),
            resize="bilinear_corners",
        ),
    )
}
"""By name."""

_KITTI_DEVKIT = "KITTI scene flow development kit (CVPR 2015): an error counts above 3 px and above 5 %"

STEREO_PROTOCOLS: dict[str, StereoProtocol] = {
    protocol.name: protocol
    for protocol in (
        StereoProtocol(
            "kitti-stereo-2015-occ",
            "KITTI stereo 2015, training pairs, all pixels with truth (disp_occ_0)",
            _KITTI_DEVKIT,
            images=200,
            average="pixels",
            headline=("d1", "epe"),
        ),
        StereoProtocol(
            "kitti-stereo-2015-noc",
            "KITTI stereo 2015, training pairs, pixels that the right camera sees as well (disp_noc_0)",
            _KITTI_DEVKIT,
            images=200,
            average="pixels",
            headline=("d1", "epe"),
        ),
        StereoProtocol(
            "middlebury",
            "Middlebury v3, training pairs, pixels that both cameras see (mask0nocc is 255); infinity is no truth",
            "Middlebury stereo evaluation, version 3: errors in pixels of the full resolution",
            images=15,
            average="images",
            headline=("bad_2", "epe", "rms"),
        ),
        StereoProtocol(
            "tartanair",
            "TartanAir, rendered depth of the left camera as disparity, every pixel",
            "TartanAir (arXiv 2003.14338): focal length 320 px, baseline 0.25 m",
            images=None,
            average="images",
            headline=("epe", "bad_1"),
        ),
    )
}
"""By name."""


def get_protocol(name: str) -> DepthProtocol | StereoProtocol:
    """Protocol by its name. Raises InputError that names the closest one."""
    known: dict[str, DepthProtocol | StereoProtocol] = {**DEPTH_PROTOCOLS, **STEREO_PROTOCOLS}
    if name not in known:
        raise InputError(f"unknown protocol '{name}'. {did_you_mean(name, list(known))}")
    return known[name]
