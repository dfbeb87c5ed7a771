"""Does an artifact give the depth that PyTorch gives? In millimeters, by range, at edges, in holes; fails closed.

Of output that has no unit, the error is a share of its range, of disparity it is pixels (``normalization.py``).
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cdm_export.parity.gates import LEAST_COMPARABLE, PREPROCESSING_LIMIT, Gate, amplified, gate_of
from cdm_export.parity.normalization import Normalization, error_normalization
from cdm_export.runtimes.bundle import Verdict
from cdm_export.runtimes.contract import ErrorClass, ModelContract, Record, Semantics
from cdm_export.runtimes.processing import at_camera_size, output

Image = NDArray[np.float32]


class Statistics(Record):
    """Error over a set of pixels; None instead of NaN where the set is empty.

    Relative to the reference's depth; of output that has no unit, to its range; of disparity, pixels of the network's
    image. Millimeters only of depth in meters.
    """

    pixels: int
    """Pixels compared."""
    mean: float | None
    """Mean error."""
    median: float | None
    """Median error."""
    p99: float | None
    """99th percentile of the error."""
    max: float | None
    """Largest error."""
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
    error_class: ErrorClass
    """What the errors of ``depth`` are."""
    depth: Statistics
    """Third stage: the full pipeline at camera size."""
    mask_disagreement: float
    """Share of pixels whose validity differs, among those farther from the threshold than the gate's p99."""
    by_range: dict[str, Statistics]
    """``depth`` by range bin of the reference."""
    near_edges: Statistics
    """``depth`` near depth edges of the reference."""
    reference_depth: tuple[float, float] | None
    """1st and 99th percentile of reference depth over all finite positive predictions, meters, ``far`` ignored; None
    where there is none, or no meters."""

    @property
    def passed(self) -> bool:
        """Whether the gate was passed; an inconclusive comparison was not."""
        return self.verdict == "passed"


def compare_inputs(expected: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> float | None:
    """Largest difference of the network inputs: absolute for the image, relative above 1 for inverse depth.

    Of an 8-bit image, as a share of 255, what goes beyond one level: that one is decided by the last bit of a rounding.
    None when a name, type or shape differs, or a value is not finite: that compares with nothing.
    """
    worst = 0.0
    for name, reference in expected.items():
        candidate = got.get(name)
        if candidate is None or (candidate.dtype, candidate.shape) != (reference.dtype, reference.shape):
            return None
        if not np.isfinite(candidate).all():
            return None
        if reference.dtype == np.uint8:
            levels = np.abs(candidate.astype(np.int16) - reference.astype(np.int16))
            difference = (levels - 1).clip(min=0) / 255
        else:
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
    rounded: Image | None = None,
) -> FrameParity:
    """Compare raw outputs [1, 1, h, w] through the contract's post-processing against the gate of ``precision``.

    Compared pixels are valid in both; a pixel valid in only one counts as mask disagreement. Arithmetic is float64.
    ``rounded``: the reference's output for rounded images, where weights are seeded and recurrent (``gates.py``).
    """
    gate = gate_of(precision, contract.semantics.error_class)
    if rounded is not None:
        alone = compare(frame, reference, rounded, contract, precision).depth
        if alone.mean is not None and alone.p99 is not None:
            gate = amplified(gate, alone.mean, alone.p99)
    raw_reference, raw_candidate = (at_camera_size(raw, contract) for raw in (reference, candidate))
    depth_reference, valid_reference = output.interpret(raw_reference, contract)
    depth_candidate, valid_candidate = output.interpret(raw_candidate, contract)
    both = valid_reference & valid_candidate
    absolute = np.abs(depth_candidate.astype(np.float64) - depth_reference)
    measure = error_normalization(depth_reference, valid_reference, contract)
    relative = np.zeros_like(absolute)
    if measure.unit is not None:
        np.divide(absolute, measure.unit, out=relative, where=both)

    def statistics(pixels: NDArray[np.bool_]) -> Statistics:
        if measure.unit is None:
            pixels = np.zeros_like(pixels)
        return _statistics(relative[pixels], 1e3 * absolute[pixels] if measure.metric else None)

    network = _raw_statistics(reference, candidate)
    depth = statistics(both)
    comparable = float(both.mean())
    mask = _mask_disagreement(raw_reference, raw_candidate, valid_reference, valid_candidate, contract, gate)
    verdict, reason = _judge(gate, comparable, network, depth, measure, mask, preprocessing)
    return FrameParity(
        frame=frame,
        verdict=verdict,
        reason=reason,
        comparable=comparable,
        preprocessing=preprocessing,
        network=network,
        error_class=contract.semantics.error_class,
        depth=depth,
        mask_disagreement=mask,
        by_range={name: statistics(both & pixels) for name, pixels in measure.bins.items()},
        near_edges=statistics(both & measure.edges),
        reference_depth=_reference_range(raw_reference, contract),
    )


def summarize(backend: str, frames: list[FrameParity], reference: str) -> Verdict:
    """Worst of each figure over the frames; the verdict is passed only when every frame passed, and there is one."""
    bad = [frame for frame in frames if not frame.passed]
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
        error_class=frames[0].error_class if frames else None,
        reference=reference,
    )


def _statistics(relative: NDArray[np.float64], millimeters: NDArray[np.float64] | None) -> Statistics:
    figures: dict[str, float | None] = dict.fromkeys(Statistics.model_fields, None)
    if relative.size:
        figures |= {
            "mean": float(relative.mean()),
            "median": float(np.median(relative)),
            "p99": float(np.percentile(relative, 99)),
            "max": float(relative.max()),
        }
    if relative.size and millimeters is not None:
        figures |= {
            "mean_mm": float(millimeters.mean()),
            "p99_mm": float(np.percentile(millimeters, 99)),
            "max_mm": float(millimeters.max()),
            "over_1mm": float((millimeters > 1).mean()),
            "over_1cm": float((millimeters > 10).mean()),
        }
    return Statistics.model_validate(figures | {"pixels": relative.size})


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
    raw_candidate: Image,
    valid_reference: NDArray[np.bool_],
    valid_candidate: NDArray[np.bool_],
    contract: ModelContract,
    gate: Gate,
) -> float:
    """A pixel within the gate's p99 of the threshold may fall on either side; every other one must agree.

    Disparity is valid above 0, where both sides look alike: there the two have to lie within the gate's p99 pixels of
    each other, since no other figure sees what a candidate makes of a pixel that the reference leaves out.
    """
    differs = valid_reference != valid_candidate
    threshold = output.threshold(contract)
    if contract.semantics.error_class is ErrorClass.PIXELS:
        pixel = contract.camera.width / contract.content.width
        with np.errstate(invalid="ignore"):
            differs &= ~(np.abs(raw_candidate.astype(np.float64) - raw_reference) <= gate.p99 * pixel)
    elif threshold is not None:
        with np.errstate(invalid="ignore"):
            differs &= ~(np.abs(raw_reference.astype(np.float64) - threshold) <= gate.p99 * threshold)
    return float(differs.mean())


def _reference_range(raw_reference: Image, contract: ModelContract) -> tuple[float, float] | None:
    predicted = raw_reference[np.isfinite(raw_reference) & (raw_reference > 0)].astype(np.float64)
    if predicted.size == 0 or not contract.metric:
        return None
    depth = 1 / predicted if contract.semantics is Semantics.INVERSE_DEPTH else predicted
    near, far = np.percentile(depth, (1, 99))
    return float(near), float(far)


def _judge(
    gate: Gate,
    comparable: float,
    network: RawStatistics,
    depth: Statistics,
    measure: Normalization,
    mask: float,
    preprocessing: float | None,
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
    px = " px" if measure.spread is not None else ""
    for name, value, limit in (
        ("mean", depth.mean, gate.mean),
        ("p99", depth.p99, gate.p99),
        ("max", depth.max, gate.max),
    ):
        if value is None or not math.isfinite(value):
            return "inconclusive", f"{name} {measure.name} is not a number"
        if limit is not None and not value <= limit:
            return "failed", f"{name} {measure.name} {value:.2e}{px} > {limit:g}{px}"
    if gate.of_spread is not None and measure.spread is not None:
        assert depth.mean is not None
        if not measure.spread > 0:
            return "inconclusive", "the reference's disparity is the same everywhere: any constant would agree with it"
        if not depth.mean <= gate.of_spread * measure.spread:
            share = depth.mean / measure.spread
            return "failed", f"mean disparity error is {share:.1e} of the reference's range > {gate.of_spread:g}"
    return "passed", ""
