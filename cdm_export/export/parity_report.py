"""What an export leaves behind for people: the parity report, and the error that says why nothing was published."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cdm_export.parity.check_backend import BackendParity
from cdm_export.parity.gates import GATES, gate_of
from cdm_export.parity.golden import ReferenceFrame, load_reference
from cdm_export.parity.normalization import spread
from cdm_export.predict.drawing import write_png
from cdm_export.predict.pictures import error_picture
from cdm_export.runtimes.cache import cache_dir, write_atomically
from cdm_export.runtimes.contract import ErrorClass, ModelContract
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.processing import postprocess


def write_reports(
    folder: Path,
    parities: list[BackendParity],
    references: list[ReferenceFrame],
    own: Mapping[str, list[ReferenceFrame]],
    outputs: Path,
    contract: ModelContract,
    max_abs: dict[str, float | None],
) -> None:
    """``parity.json``, for each backend and precision the heat map of its worst frame, and the measured ranges.

    ``own``: the frames of precisions that are not fed ``references``. ``outputs`` holds the raw outputs as
    ``BACKEND-PRECISION-INDEX.npy``.
    """
    folder.mkdir()
    error_class = contract.semantics.error_class
    report: dict[str, Any] = {
        "gates": {name: vars(gate_of(name, error_class)) for name in GATES},
        "contract": contract.model_dump(mode="json"),
        "backends": [parity.model_dump(mode="json") for parity in parities],
    }
    (folder / "parity.json").write_text(json.dumps(report, indent=1))
    if max_abs:
        (folder / "ranges.json").write_text(json.dumps({"largest_magnitude": max_abs}, indent=1))
    for parity in parities:
        means = [float("inf") if frame.depth.mean is None else frame.depth.mean for frame in parity.frames]
        worst = means.index(max(means))
        arrays = load_reference(own.get(parity.precision, references)[worst].path)
        name = f"{parity.backend}-{parity.label}"
        candidate = np.load(outputs / f"{name}-{worst}.npy", allow_pickle=False)
        low, high = spread(arrays["depth"], arrays["valid"])
        caption = f"{contract.model} {parity.label} on {parity.backend}, frame {references[worst].name}"
        picture = error_picture(
            arrays["rgb"],
            arrays["depth"],
            postprocess(candidate, contract)[0],
            gate_of(parity.precision, error_class).p99,
            f"{caption}: {parity.verdict}",
            error_class=error_class,
            unit=high - low if error_class is ErrorClass.RANGE else contract.camera.width / contract.content.width,
        )
        write_png(folder / f"{name}.png", picture)


def failures(parities: list[BackendParity]) -> list[str]:
    """What did not pass, each with its figures."""
    return [f"{parity.name}: {parity.verdict}" for parity in parities if not parity.verdict.passed]


def require_passed(parities: list[BackendParity], reports: Path, name: str, far: float) -> None:
    """Raise ParityError unless every gate passed; the reports are kept in the cache under ``name``."""
    bad = [parity for parity in parities if not parity.verdict.passed]
    if not bad:
        return
    kept = cache_dir() / "failed" / name
    try:
        for path in reports.iterdir():
            write_atomically(kept / path.name, path.read_bytes())
        next_step = f"The report is in {kept}."
    except OSError as error:
        next_step = f"The report could not be kept in {kept}: {error.strerror}."
    predicted = bad[0].frames[0].reference_depth if bad[0].frames else None
    if bad[0].verdict.verdict == "inconclusive" and predicted is not None and predicted[1] > far:
        next_step += (
            f" PyTorch itself predicts {predicted[0]:.3g} to {predicted[1]:.3g} m on frame {bad[0].frames[0].frame}, "
            f"and --far {far:g} makes everything beyond invalid: is this the right checkpoint, or does it want a "
            "larger --far?"
        )
    raise ParityError("nothing was published: " + "; ".join(failures(parities)), next_step)
