"""How good refined depth is, beside the raw sensor and two ways of filling holes without a network.

On rendered frames the truth is known everywhere. On real frames it is not: rectangles of readings are hidden, and
what a method says there is compared with what was read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn

from cdm_export.reference_model.reference import run_reference
from cdm_export.reference_model.training.samples import MAX_DEPTH, sensor_depth
from cdm_export.reference_model.training.trainer import CHANNEL_ORDER
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import postprocess, preprocess
from cdm_export.runtimes.sources import SourceFrame
from cdm_export.runtimes.sources.synthetic import SyntheticSource

Depth = NDArray[np.float32]
"""[H, W] meters, 0 = none."""
Mask = NDArray[np.bool_]
Method = Callable[[Frame], Depth]
"""Color and sensor depth -> depth."""

CAMERA = Size(640, 480)
HELD_OUT_SEED = 2026
"""Of rooms and of their noise; training renders those of another seed."""
HELD_OUT_FRAMES = 200
_STRENGTH, _HIDDEN = 3.0, 0.35
"""The hard end of training: three times the cameras' own error, a third of the readings lost in regions."""
_EDGE = 1.1
"""Farthest over nearest in a 5x5 neighborhood that make a pixel one of an edge."""
_CLOSE = 1.05


class Score(NamedTuple):
    """Errors over some pixels; what has no depth counts as depth 0."""

    abs_rel: float
    """Mean |depth - truth| / truth."""
    rmse_m: float
    """Root of the mean squared error, meters."""
    within_5_percent: float
    """Share of pixels whose ratio to the truth is below 1.05 either way."""


class Errors:
    """Sums over frames, from which scores are made."""

    def __init__(self) -> None:
        self._sums = np.zeros(4)

    def add(self, depth: Depth, truth: Depth, where: Mask) -> None:
        """Count the pixels ``where``; the truth is positive there."""
        guess, exact = depth[where].astype(np.float64), truth[where].astype(np.float64)
        error = np.abs(guess - exact)
        close = (guess < _CLOSE * exact) & (exact < _CLOSE * guess)
        self._sums += [error.size, (error / exact).sum(), (error**2).sum(), close.sum()]

    def score(self) -> Score:
        """Over everything added; NaN when nothing was."""
        count = self._sums[0]
        if not count:
            return Score(np.nan, np.nan, np.nan)
        relative, squared, close = (float(total) for total in self._sums[1:] / count)
        return Score(relative, squared**0.5, close)


def refiner(network: nn.Module, variant: Variant) -> Method:
    """The network as a method, through the device's own processing at the variant's default size."""
    exportable = variant.exportable(network, CHANNEL_ORDER).eval()

    def refine(frame: Frame) -> Depth:
        contract = variant.contract(
            variant.name, frame.size, variant.default_input_size, CHANNEL_ORDER, max_depth=MAX_DEPTH
        )
        raw = run_reference(exportable, contract, preprocess(frame, contract))[contract.output.name]
        return postprocess(raw, contract)[0]

    return refine


def raw_sensor(frame: Frame) -> Depth:
    """The sensor's own depth, holes and all."""
    assert frame.depth is not None
    return np.where(frame.depth <= MAX_DEPTH, frame.depth, np.float32(0))


def nearest_fill(frame: Frame) -> Depth:
    """Every hole takes the depth of the nearest reading in the image."""
    depth = raw_sensor(frame)
    if not depth.any():
        return depth
    labels = cv2.distanceTransformWithLabels(
        (depth == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    by_label = np.zeros(int(labels.max()) + 1, np.float32)
    by_label[labels[depth > 0]] = depth[depth > 0]
    return by_label[labels]


def telea_fill(frame: Frame) -> Depth:
    """OpenCV's inpainting (A. Telea, "An Image Inpainting Technique Based on the Fast Marching Method", 2004).

    In millimeters as uint16: of float32 images OpenCV makes holes deeper than anything around them.
    """
    depth = raw_sensor(frame)
    millimeters = np.rint(depth * 1000).astype(np.uint16)
    filled = cv2.inpaint(millimeters, (depth == 0).astype(np.uint8), 5, cv2.INPAINT_TELEA)
    return np.asarray(filled, np.float32) / np.float32(1000)


METHODS: Mapping[str, Method] = {"raw sensor": raw_sensor, "nearest fill": nearest_fill, "Telea": telea_fill}
"""What a network has to beat."""


class HeldOut(NamedTuple):
    """A frame that training never saw."""

    frame: Frame
    truth: Depth


def held_out(count: int = HELD_OUT_FRAMES, seed: int = HELD_OUT_SEED) -> Iterator[HeldOut]:
    """Rendered frames with a camera's depth, the same on every run."""
    source = SyntheticSource(count, seed, CAMERA)
    for index in range(count):
        view = source.view(index)
        rng = np.random.default_rng([seed, index, 1])
        depth = sensor_depth(view.rgb, view.depth, view.focal, rng, _STRENGTH, _HIDDEN)
        yield HeldOut(Frame(view.rgb, depth), view.depth)


def near_edges(truth: Depth) -> Mask:
    """Pixels whose 5x5 neighborhood reaches over a step in depth, [H, W]."""
    window = np.ones((5, 5), np.uint8)
    return np.asarray(cv2.dilate(truth, window) > _EDGE * cv2.erode(truth, window))


def score_rendered(methods: Mapping[str, Method], frames: Iterator[HeldOut]) -> dict[str, dict[str, Score]]:
    """Scores by method and by region: ``overall``, ``holes`` (without a reading), ``readings``, ``edges``."""
    errors = {name: {region: Errors() for region in ("overall", "holes", "readings", "edges")} for name in methods}
    for frame, truth in frames:
        holes = raw_sensor(frame) == 0
        regions = {"overall": truth > 0, "holes": holes, "readings": ~holes, "edges": near_edges(truth)}
        for name, method in methods.items():
            depth = method(frame)
            for region, where in regions.items():
                errors[name][region].add(depth, truth, where)
    return {name: {region: sums.score() for region, sums in of.items()} for name, of in errors.items()}


def hide_rectangles(depth: Depth, share: float, rng: np.random.Generator) -> tuple[Depth, Mask]:
    """Depth with ``share`` of its readings hidden under rectangles of an eighth of the sides, and which were."""
    left, hidden = depth.copy(), np.zeros(depth.shape, bool)
    rows, columns = (side // 8 for side in depth.shape)
    while hidden.sum() < share * np.count_nonzero(depth):
        y, x = int(rng.integers(depth.shape[0] - rows)), int(rng.integers(depth.shape[1] - columns))
        window = slice(y, y + rows), slice(x, x + columns)
        hidden[window] |= left[window] > 0
        left[window] = 0
    return left, hidden


def score_real(methods: Mapping[str, Method], frames: Sequence[SourceFrame], seed: int = 0) -> dict[str, Score]:
    """Scores by method on readings that were hidden: a tenth of every frame's."""
    errors = {name: Errors() for name in methods}
    for index, source in enumerate(frames):
        assert source.frame.depth is not None
        known = raw_sensor(source.frame)
        left, hidden = hide_rectangles(known, 0.1, np.random.default_rng([seed, index]))
        for name, method in methods.items():
            errors[name].add(method(Frame(source.frame.rgb, left)), known, hidden)
    return {name: sums.score() for name, sums in errors.items()}
