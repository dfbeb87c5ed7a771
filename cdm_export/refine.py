"""Refine frames and write what a person or a robot wants: metres, 16-bit millimetres, a picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.pictures import refinement_picture, write_png
from runtimes.bundle import Manifest
from runtimes.cache import write_atomically
from runtimes.errors import InputError
from runtimes.frame import DepthResult
from runtimes.pipeline import DepthPipeline
from runtimes.sources import FrameSource, SourceFrame, check_depth

RANDOM_WARNING = "RANDOM WEIGHTS: this shows that the pipeline works; the depth means nothing"
"""On everything that seeded random weights made."""
_PNG_LIMIT_MM = 65535
"""A 16-bit PNG in millimetres ends at 65.535 m; beyond it a pixel is 0, as if there were no reading."""


def weights_warning(manifest: Manifest) -> str:
    """What must stand beside every result of these weights; empty for weights that were trained."""
    return RANDOM_WARNING if manifest.provenance.random_weights else ""


@dataclass(frozen=True)
class Refined:
    """One frame, refined and written."""

    name: str
    """Name of the frame."""
    result: DepthResult
    """What the pipeline gave."""
    files: tuple[Path, ...]
    """What was written."""
    warnings: tuple[str, ...]
    """What a person should know about the frame."""

    def to_json(self) -> dict[str, Any]:
        """Figures of the frame, not its pixels."""
        depth = self.result.values[self.result.valid]
        quantiles = [float(value) for value in np.percentile(depth, (1, 50, 99))] if depth.size else None
        return {
            "frame": self.name,
            "files": [str(path) for path in self.files],
            "unit": self.result.unit,
            "depth_p1_p50_p99": quantiles,
            "health": vars(self.result.health),
            "timing_ms": vars(self.result.timing),
            "warnings": list(self.warnings),
        }


def check_output(out: Path, inputs: list[Path], many: bool) -> None:
    """Raise InputError unless results can be written to ``out`` without touching an input; before anything runs."""
    if any(path.exists() and out.exists() and out.samefile(path) for path in inputs):
        raise InputError(f"-o {out} is one of the inputs", "Choose another -o.")
    if many and out.suffix in (".npy", ".png"):
        raise InputError(f"-o {out} is one file, but there are several frames", "Give a folder.")
    if out.suffix in (".npy", ".png"):
        if out.is_dir():
            raise InputError(f"-o {out} is a folder")
    elif out.exists() and not out.is_dir():
        raise InputError(f"-o {out} is a file of an unknown kind: expected .npy, .png or a folder")
    folder = out.parent if out.suffix in (".npy", ".png") else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".cdm-export-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}", "Choose another -o.") from error


def refine_source(
    pipeline: DepthPipeline,
    source: FrameSource,
    out: Path,
    caption: str,
    warning: str,
    *,
    strict: bool,
    on_bad: Callable[[str, InputError], None],
) -> Iterator[Refined]:
    """Refine frame by frame. A bad frame goes to ``on_bad`` and is skipped, or with ``strict`` raises InputError."""
    for index, name in enumerate(source.names):
        try:
            yield refine(pipeline, source.load(index), out, caption, warning)
        except InputError as error:
            if strict:
                raise
            on_bad(name, error)


def refine(pipeline: DepthPipeline, source: SourceFrame, out: Path, caption: str, warning: str) -> Refined:
    """Refine one frame and write it.

    ``out`` ending in ``.npy`` takes metres as float32, in ``.png`` 16-bit millimetres; any other is a folder and takes
    both and a picture. Raises InputError when no pixel of the depth image has a reading.
    """
    warnings = check_depth(source, pipeline.contract.max_depth)
    result = pipeline(source.frame)
    if result.health.non_finite_share > 0:
        warnings.append(f"{result.health.non_finite_share:.2%} of the network's output is NaN or Inf: do not use it")
    files = []
    stem = out / source.name
    if out.suffix != ".png":
        files.append(_write_npy(out if out.suffix == ".npy" else stem.with_name(f"{source.name}.npy"), result))
    if out.suffix != ".npy":
        path = out if out.suffix == ".png" else stem.with_name(f"{source.name}.png")
        too_far = _write_millimetres(path, result)
        files.append(path)
        if too_far:
            warnings.append(f"{too_far} pixel(s) beyond 65.535 m are 0 in {path.name}: 16 bits hold no more")
    if out.suffix not in (".npy", ".png"):
        assert source.frame.depth is not None
        path = stem.with_name(f"{source.name}.view.png")
        picture = refinement_picture(
            source.frame.rgb, source.frame.depth, result.depth_m, f"{source.name}: {caption}", warning
        )
        write_png(path, picture)
        files.append(path)
    return Refined(source.name, result, tuple(files), tuple(warnings))


def _write_npy(path: Path, result: DepthResult) -> Path:
    import io

    buffer = io.BytesIO()
    np.save(buffer, result.depth_m, allow_pickle=False)
    write_atomically(path, buffer.getvalue())
    return path


def _write_millimetres(path: Path, result: DepthResult) -> int:
    """Write a 16-bit PNG; returns how many pixels were too far for it."""
    millimetres = np.rint(result.depth_m.astype(np.float64) * 1000)
    too_far = millimetres > _PNG_LIMIT_MM
    image: NDArray[np.uint16] = np.where(too_far, 0, millimetres).astype(np.uint16)
    written, data = cv2.imencode(".png", image)
    assert written
    write_atomically(path, data.tobytes())
    return int(too_far.sum())
