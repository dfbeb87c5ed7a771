"""The same weights at several input sizes: what a smaller network costs in depth, and saves in time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_export.parity.golden import load_reference
from cdm_export.parity.normalization import spread
from cdm_export.runtimes import local_results
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import ErrorClass, Size
from cdm_export.runtimes.errors import InputError

Depth = NDArray[np.float32]


@dataclass(frozen=True)
class SizeRow:
    """One bundle beside the largest."""

    input_size: int
    """``--input-size`` it was exported with."""
    network: str
    """Size the network runs at."""
    mean: str | None
    """Mean absolute difference of FP32 PyTorch's depth from that of the largest, in mm, or in percent of its range
    where it has no unit; None for the largest itself."""
    p99: str | None
    """99th percentile of the same."""
    fastest: tuple[str, float] | None
    """Fastest that passed on this machine: backend and precision, median inference in ms; None before ``verify``."""


def compare_sizes(bundles: Sequence[Bundle]) -> list[SizeRow]:
    """Depth of the golden frames that all bundles share, at pixels valid in both. Largest input first.

    Raises InputError unless all were made from the same weights for the same camera and share a frame, and
    no two are the same bundle.
    """
    seen: dict[str, Bundle] = {}
    for bundle in bundles:
        if (twin := seen.setdefault(bundle.identity, bundle)) is not bundle:
            raise InputError(
                f"{bundle.path} and {twin.path} are the same bundle",
                "--beside takes bundles of the same checkpoint and camera with another --input-size.",
            )
    largest, *smaller = sorted(bundles, key=lambda bundle: -bundle.manifest.contract.input_size)
    depths = _depths(largest)
    rows = [_row(largest, None)]
    for bundle in smaller:
        ours, theirs = bundle.manifest, largest.manifest
        for what, own, other in (
            ("weights", ours.provenance.sha256[:12], theirs.provenance.sha256[:12]),
            ("camera", str(Size(*ours.contract.camera)), str(Size(*theirs.contract.camera))),
        ):
            if own != other:
                raise InputError(
                    f"{bundle.path} and {largest.path} differ in their {what}: {own} and {other}",
                    "--beside takes bundles of the same checkpoint and camera with another --input-size.",
                )
        shared = {name: depth for name, depth in _depths(bundle).items() if name in depths}
        if not shared:
            raise InputError(
                f"{bundle.path} and {largest.path} have no golden frame in common",
                "Export both with the same --frames.",
            )
        error_class = bundle.manifest.contract.semantics.error_class
        differences = [_difference(depth, depths[name], error_class) for name, depth in shared.items()]
        rows.append(_row(bundle, np.concatenate(differences)))
    return rows


def _difference(depth: Depth, largest: Depth, error_class: ErrorClass) -> Depth:
    """Meters, pixels of the camera, or shares of the range of ``largest``, at pixels with a value in both."""
    both = (depth > 0) & (largest > 0)
    difference: Depth = np.abs(depth - largest)[both]
    if error_class is not ErrorClass.RANGE:
        return difference
    low, high = spread(largest, both)
    return difference / np.float32(high - low)


def _depths(bundle: Bundle) -> dict[str, Depth]:
    return {golden.name: load_reference(bundle.file(golden.file))["depth"] for golden in bundle.manifest.golden}


def _row(bundle: Bundle, difference: Depth | None) -> SizeRow:
    contract = bundle.manifest.contract
    error_class = contract.semantics.error_class
    passed = [
        (local.p50_ms, f"{local.backend} {local.precision}")
        for local in local_results.load(bundle).values()
        if local.verdict.passed and local.p50_ms is not None
    ]
    fastest = min(passed, default=None)
    return SizeRow(
        input_size=contract.input_size,
        network=str(Size(*contract.network)),
        mean=None if difference is None else _words(float(difference.mean()), error_class),
        p99=None if difference is None else _words(float(np.percentile(difference, 99)), error_class),
        fastest=None if fastest is None else (fastest[1], fastest[0]),
    )


def _words(difference: float, error_class: ErrorClass) -> str:
    if error_class is ErrorClass.RELATIVE:
        return f"{1e3 * difference:.1f} mm"
    return f"{difference:.2g} px" if error_class is ErrorClass.PIXELS else f"{difference:.2%} of the range"
