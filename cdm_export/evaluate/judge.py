"""One prediction against one truth: metrics by region of the image."""

from dataclasses import asdict, dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.evaluate.boundaries import boundary_f1
from cdm_export.evaluate.data.base import Item
from cdm_export.evaluate.metrics import AlignmentKind, Map, Mask, align, depth_metrics, stereo_metrics
from cdm_export.evaluate.protocols import DepthProtocol, StereoProtocol
from cdm_export.runtimes.contract import Semantics
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.processing.depth import usable

EVERYWHERE = "all"
"""Name of the region that is the whole mask."""
_EDGE = 1.1
"""Ratio of the truth's depths next to each other that is an edge."""
_EDGE_REACH = 5
"""Pixels of the square around an edge that is near it."""
_RANGES = (0.0, 1.0, 2.0, 4.0, 8.0, np.inf)
"""Meters, ends of the ranges that errors are told apart by."""

Row = dict[str, dict[str, float]]
"""By region, by metric; a region without truth is left out."""


@dataclass(frozen=True)
class Prediction:
    """What something made of a frame."""

    values: NDArray[np.floating]
    """[H, W] at the frame's size: as ``semantics`` says, before anything was called invalid."""
    semantics: Semantics
    """What the values are."""
    holes: bool = False
    """Whether it may leave pixels without an answer, NaN: those are counted as ``density`` and not judged."""


def alignment_of(
    semantics: Semantics, protocol: DepthProtocol | StereoProtocol, asked: AlignmentKind | None
) -> AlignmentKind:
    """How a prediction is brought to the truth's scale: as asked, else as its meaning wants.

    Raises InputError for an alignment that does not go with the meaning.
    """
    if isinstance(protocol, StereoProtocol) or semantics is Semantics.DISPARITY:
        if asked not in (None, "none"):
            raise InputError(f"--align {asked}: disparity is compared as it is", "Leave it out.")
        return "none"
    if semantics is Semantics.RELATIVE_INVERSE_DEPTH:
        if asked not in (None, "scale_shift_inverse"):
            raise InputError(
                f"--align {asked}: relative inverse depth has a scale and a shift of its own",
                "Leave it out, or take scale_shift_inverse.",
            )
        return "scale_shift_inverse"
    if asked == "scale_shift_inverse":
        raise InputError("--align scale_shift_inverse is for relative inverse depth, and this is depth in meters")
    return asked or "none"


def judge(
    prediction: Prediction, item: Item, protocol: DepthProtocol | StereoProtocol, asked: AlignmentKind | None
) -> Row:
    """Metrics of one frame. Raises InputError as the metrics do: NaN is no answer."""
    kind = alignment_of(prediction.semantics, protocol, asked)
    if isinstance(protocol, StereoProtocol):
        mask = protocol.mask(item.truth, item.visible)
        answered = mask & np.isfinite(prediction.values) if prediction.holes else mask
        metrics = asdict(stereo_metrics(prediction.values, item.truth, answered))
        if prediction.holes:
            metrics["density"] = float(np.count_nonzero(answered)) / float(np.count_nonzero(mask))
        return {EVERYWHERE: metrics}
    mask = protocol.mask(item.truth)
    low, high = protocol.clamp or (0.0, np.inf)
    aligned = align(_depth(prediction, high), item.truth, mask, kind, farthest=high)
    depth = np.clip(aligned.depth, low, high)
    row = {
        name: asdict(depth_metrics(depth, item.truth, region))
        for name, region in _regions(item, mask).items()
        if region.any()
    }
    if (edges := boundary_f1(depth, item.truth, mask)) is not None:
        row[EVERYWHERE]["boundary_f1"] = edges
    return row


def _depth(prediction: Prediction, farthest: float) -> Map:
    """Inverse depth in 1/m as meters, at most ``farthest``; everything else as it is. NaN stays NaN."""
    if prediction.semantics is not Semantics.INVERSE_DEPTH:
        return prediction.values
    return 1 / np.maximum(np.asarray(prediction.values, np.float64), 1 / farthest)


def _regions(item: Item, mask: Mask) -> dict[str, Mask]:
    truth, given = item.truth, item.source.frame.depth
    regions = {EVERYWHERE: mask, "near edges": mask & _near_edges(truth, mask)}
    if given is not None:
        read = usable(given, np.inf)
        regions |= {"readings": mask & read, "holes": mask & ~read}
    for low, high in pairwise(_RANGES):
        name = f"from {low:g} m" if np.isinf(high) else f"{low:g} to {high:g} m"
        regions[name] = mask & (truth >= low) & (truth < high)
    return regions


def _near_edges(truth: Map, mask: Mask) -> Mask:
    """Near a jump between two pixels side by side that both have truth."""
    logs = np.log(np.where(mask, truth, 1))
    edge = np.zeros(truth.shape, np.uint8)
    for one, other in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        jump = mask[one] & mask[other] & (np.abs(logs[one] - logs[other]) > np.log(_EDGE))
        edge[one] |= jump
        edge[other] |= jump
    return cv2.dilate(edge, np.ones((_EDGE_REACH, _EDGE_REACH), np.uint8)) > 0
