"""The same weights at several input sizes: what a smaller network costs in depth, and saves in time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdm_export.golden import load_reference
from runtimes import sidecar
from runtimes.bundle import Bundle
from runtimes.contract import Size
from runtimes.errors import InputError


@dataclass(frozen=True)
class SizeRow:
    """One bundle beside the largest."""

    input_size: int
    """``--input-size`` it was exported with."""
    network: str
    """Size the network runs at."""
    mean_mm: float | None
    """Mean absolute difference of FP32 PyTorch's depth from that of the largest, mm; None for the largest itself."""
    p99_mm: float | None
    """99th percentile of the same."""
    fastest: tuple[str, float] | None
    """Fastest that passed on this machine: backend and precision, median inference in ms; None before ``verify``."""


def compare_sizes(bundles: Sequence[Bundle]) -> list[SizeRow]:
    """Depth of the golden frames that all bundles share, at pixels valid in both. Largest input first.

    Raises InputError unless all were made from the same weights for the same camera and share a frame.
    """
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
        differences = [
            np.abs(depth - depths[name])[(depth > 0) & (depths[name] > 0)].ravel() for name, depth in shared.items()
        ]
        rows.append(_row(bundle, np.concatenate(differences)))
    return rows


def _depths(bundle: Bundle) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
    return {golden.name: load_reference(bundle.file(golden.file))["depth"] for golden in bundle.manifest.golden}


def _row(bundle: Bundle, metres: "np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None") -> SizeRow:
    contract = bundle.manifest.contract
    passed = [
        (local.p50_ms, f"{local.backend} {local.precision}")
        for local in sidecar.load(bundle).values()
        if local.verdict.verdict == "passed" and local.p50_ms is not None
    ]
    fastest = min(passed, default=None)
    return SizeRow(
        input_size=contract.input_size,
        network=str(Size(*contract.network)),
        mean_mm=None if metres is None else 1e3 * float(metres.mean()),
        p99_mm=None if metres is None else 1e3 * float(np.percentile(metres, 99)),
        fastest=None if fastest is None else (fastest[1], fastest[0]),
    )
