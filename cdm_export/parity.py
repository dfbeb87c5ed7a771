"""Does an artefact give the depth that PyTorch gives? In millimetres, by range, at edges, in holes; fails closed."""

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.gates import GATES, LEAST_COMPARABLE, PREPROCESSING_LIMIT, Gate
from runtimes.bundle import Verdict
from runtimes.contract import ModelContract, Record
from runtimes.processing import at_camera_size, output

_RANGES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Lower bounds of the range bins in metres; the last reaches to ``far``."""
_EDGE_RATIO = 1.1
"""A pixel is near an edge when its 5x5 neighbourhood's largest reference depth exceeds the smallest by this."""

Image = NDArray[np.float32]


class Statistics(Record):
    """Depth error over a set of pixels; None instead of NaN where the set is empty."""

    pixels: int
    """Pixels compared."""
    mean: float | None
    """Mean relative error."""
    median: float | None
    """Median relative error."""
    p99: float | None
    """99th percentile of the relative error."""
    max: float | None
    """Largest relative error."""
    mean_mm: float | None
    """Mean absolute error, mm."""
    p99_mm: float | None
    """99th percentile, mm."""
    max_mm: float | None
    """Largest, mm."""
    over_1mm: float | None
    """Share of pixels off by more than 1 mm."""
    over_1cm: float | None
    """Share of pixels off by more than 1 cm."""


class RawStatistics(Record):
    """The network's raw output, before any processing."""

    psnr_db: float | None
    """Against the reference's range; None when both are equal."""
    cosine: float | None
    """Cosine similarity."""
    max_abs: float | None
    """Largest absolute difference, in the output's unit."""
    non_finite: int
    """NaN and Inf of candidate and reference."""


class FrameParity(Record):
    """One frame through one backend."""

    frame: str
    """Name of the frame."""
    verdict: Literal["passed", "failed", "inconclusive"]
    """Outcome of the gate."""
    reason: str
    """The limit that was broken, value against limit; empty when passed."""
    comparable: float
    """Share of pixels valid in both."""
    preprocessing: float | None
    """Largest difference of the network inputs computed here from the stored ones; None when one is no number."""
    network: RawStatistics
    """Second stage: the raw output."""
    depth: Statistics
    """Third stage: the full pipeline at camera size."""
    mask_disagreement: float
    """Share of pixels whose validity differs, among those farther from the threshold than the gate's p99."""
    by_range: dict[str, Statistics]
    """``depth`` by range bin of the reference."""
    near_edges: Statistics
    """``depth`` near depth edges of the reference."""
    reference_depth: tuple[float, float] | None
    """1st and 99th percentile of reference depth over all finite positive predictions, metres, ``far`` ignored."""


def compare_inputs(expected: Mapping[str, Image], got: Mapping[str, Image]) -> float | None:
    """Largest difference of the network inputs: absolute for the image, relative above 1 for inverse depth.

    None when a name or shape differs, or a value is not finite: that compares with nothing.
    """
    worst = 0.0
    for name, reference in expected.items():
        candidate = got.get(name)
        if candidate is None or candidate.shape != reference.shape or not np.isfinite(candidate).all():
            return None
        difference = np.abs(candidate - reference) / np.maximum(np.abs(reference), 1)
        worst = max(worst, float(difference.max(initial=0)))
    return worst


def compare(
    frame: str,
    reference: Image,
    candidate: Image,
    contract: ModelContract,
    precision: str,
    preprocessing: float | None = 0.0,
) -> FrameParity:
    """Compare raw outputs [1, 1, h, w] through the contract's post-processing against the gate of ``precision``.

    Compared pixels are valid in both; a pixel valid in only one counts as mask disagreement. Arithmetic is float64.
    """
    gate = GATES[precision]
    raw_reference, raw_candidate = (at_camera_size(raw, contract) for raw in (reference, candidate))
    depth_reference, valid_reference = output.interpret(raw_reference, contract)
    depth_candidate, valid_candidate = output.interpret(raw_candidate, contract)
    both = valid_reference & valid_candidate
    expected = depth_reference.astype(np.float64)
    absolute = np.abs(depth_candidate.astype(np.float64) - expected)
    relative = np.divide(absolute, expected, out=np.zeros_like(absolute), where=both)

    def statistics(pixels: NDArray[np.bool_]) -> Statistics:
        return _statistics(relative[pixels], 1e3 * absolute[pixels])

    bounds = (*_RANGES, math.inf)
    by_range = {
        f"{low:g}-{f'{high:g}' if math.isfinite(high) else f'{contract.far:g}'} m": statistics(
            both & (expected >= low) & (expected < high)
        )
        for low, high in itertools.pairwise(bounds)
    }
    network = _raw_statistics(reference, candidate)
    depth = statistics(both)
    comparable = float(both.mean())
    mask = _mask_disagreement(raw_reference, valid_reference, valid_candidate, contract, gate)
    verdict, reason = _judge(gate, comparable, network, depth, mask, preprocessing)
    return FrameParity(
        frame=frame,
        verdict=verdict,
        reason=reason,
        comparable=comparable,
        preprocessing=preprocessing,
        network=network,
        depth=depth,
        mask_disagreement=mask,
        by_range=by_range,
        near_edges=statistics(both & near_edges(depth_reference, valid_reference)),
        reference_depth=_reference_range(raw_reference),
    )


def summarise(backend: str, frames: list[FrameParity], reference: str) -> Verdict:
    """Worst of each figure over the frames; the verdict is passed only when every frame passed, and there is one."""
    bad = [frame for frame in frames if frame.verdict != "passed"]
    kind = "inconclusive" if not frames else bad[0].verdict if bad else "passed"
    reason = "no frame was compared" if not frames else f"{bad[0].frame}: {bad[0].reason}" if bad else ""

    def worst(figures: list[float | None]) -> float | None:
        present = [figure for figure in figures if figure is not None]
        return max(present) if len(present) == len(figures) and present else None

    return Verdict(
        backend=backend,
        verdict=kind,
        reason=reason,
        frames=len(frames),
        mean=worst([frame.depth.mean for frame in frames]),
        p99=worst([frame.depth.p99 for frame in frames]),
        max=worst([frame.depth.max for frame in frames]),
        mean_mm=worst([frame.depth.mean_mm for frame in frames]),
        reference=reference,
    )


def near_edges(depth: Image, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[H, W] bool: valid depth in the 5x5 neighbourhood varies by more than ``_EDGE_RATIO``."""
    kernel = np.ones((5, 5), np.uint8)
    largest = cv2.dilate(np.where(valid, depth, np.float32(0)), kernel)
    smallest = cv2.erode(np.where(valid, depth, np.float32(np.inf)), kernel)
    return np.asarray(largest / smallest > _EDGE_RATIO) & valid


def _statistics(relative: NDArray[np.float64], millimetres: NDArray[np.float64]) -> Statistics:
    if relative.size == 0:
        empty = dict.fromkeys(Statistics.model_fields, None)
        return Statistics.model_validate(empty | {"pixels": 0})
    return Statistics(
        pixels=relative.size,
        mean=float(relative.mean()),
        median=float(np.median(relative)),
        p99=float(np.percentile(relative, 99)),
        max=float(relative.max()),
        mean_mm=float(millimetres.mean()),
        p99_mm=float(np.percentile(millimetres, 99)),
        max_mm=float(millimetres.max()),
        over_1mm=float((millimetres > 1).mean()),
        over_1cm=float((millimetres > 10).mean()),
    )


def _raw_statistics(reference: Image, candidate: Image) -> RawStatistics:
    non_finite = sum(int(raw.size - np.isfinite(raw).sum()) for raw in (candidate, reference))
    if non_finite:
        return RawStatistics(psnr_db=None, cosine=None, max_abs=None, non_finite=non_finite)
    expected, got = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    mean_square = float(np.mean((got - expected) ** 2))
    norms = float(np.linalg.norm(expected) * np.linalg.norm(got))
    spread = float(np.ptp(expected))
    return RawStatistics(
        psnr_db=20 * math.log10(spread) - 10 * math.log10(mean_square) if mean_square > 0 and spread > 0 else None,
        cosine=float(expected @ got) / norms if norms > 0 else None,
        max_abs=float(np.abs(got - expected).max()),
        non_finite=0,
    )


def _mask_disagreement(
    raw_reference: Image,
    valid_reference: NDArray[np.bool_],
    valid_candidate: NDArray[np.bool_],
    contract: ModelContract,
    gate: Gate,
) -> float:
    """A pixel within the gate's p99 of the threshold may fall on either side; every other one must agree."""
    threshold = 1.0 / contract.far
    with np.errstate(invalid="ignore"):
        clear = ~(np.abs(raw_reference.astype(np.float64) - threshold) <= gate.p99 * threshold)
    return float(((valid_reference != valid_candidate) & clear).mean())


def _reference_range(raw_reference: Image) -> tuple[float, float] | None:
    predicted = raw_reference[np.isfinite(raw_reference) & (raw_reference > 0)]
    if predicted.size == 0:
        return None
    far, near = np.percentile(predicted.astype(np.float64), (1, 99))
    return float(1 / near), float(1 / far)


def _judge(
    gate: Gate, comparable: float, network: RawStatistics, depth: Statistics, mask: float, preprocessing: float | None
) -> tuple[Literal["passed", "failed", "inconclusive"], str]:
    """Every comparison is written ``value <= limit``: what is NaN or None does not pass."""
    if network.non_finite:
        return "failed", f"{network.non_finite} NaN or Inf in the raw output"
    if preprocessing is None:
        return "failed", "the network inputs computed here have other shapes than the stored ones, or NaN or Inf"
    if not preprocessing <= PREPROCESSING_LIMIT:
        return "failed", f"network inputs differ by {preprocessing:.1e} from the stored ones > {PREPROCESSING_LIMIT:g}"
    if not mask <= gate.mask:
        return "failed", f"valid mask differs in {mask:.2%} of the pixels > {gate.mask:.2%}"
    if not comparable >= LEAST_COMPARABLE:
        return "inconclusive", f"only {comparable:.1%} of the pixels are comparable < {LEAST_COMPARABLE:.0%}"
    for name, value, limit in (
        ("mean", depth.mean, gate.mean),
        ("p99", depth.p99, gate.p99),
        ("max", depth.max, gate.max),
    ):
        if value is None or not math.isfinite(value):
            return "inconclusive", f"{name} relative error is not a number"
        if limit is not None and not value <= limit:
            return "failed", f"{name} relative depth error {value:.2e} > {limit:g}"
    return "passed", ""
