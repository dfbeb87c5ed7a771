"""Run frames and write what a person or a robot wants: meters, 16-bit millimeters, a picture.

Relative inverse depth stays what it is, and is never called meters, unless somebody says how it becomes them.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.predict.drawing import encode_png
from cdm_export.predict.pictures import DEFAULT_COLORS, prediction_picture, refinement_picture
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.runtimes.bundle import Manifest
from cdm_export.runtimes.cache import write_together
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import InputError, ParityError
from cdm_export.runtimes.frame import DepthResult
from cdm_export.runtimes.hashing import cached_sha256
from cdm_export.runtimes.lock import random_name
from cdm_export.runtimes.metric_scale import ToMeters
from cdm_export.runtimes.output_paths import check_output_paths
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.sources import FrameSource, SourceFrame, dropped_note, require_readings

RANDOM_WARNING = "RANDOM WEIGHTS: this shows that the pipeline works; the depth means nothing"
"""On everything that seeded random weights made."""
DEMONSTRATION_WARNING = "DEMONSTRATION MODEL: trained briefly on rendered rooms; not for use on a robot"
"""On everything that the weights shipped with the package made; their model card has figures."""
_NO_OUTPUT = frozenset(
    f".{suffix}"
    for suffix in [
        "jpg",
        "jpeg",
        "webp",
        "bmp",
        "gif",
        "tif",
        "tiff",
        "exr",
        "pfm",
        "npz",
        "csv",
        "json",
        "txt",
        "mat",
        "mp4",
        "mkv",
    ]
)
"""Suffixes of files that somebody wants, and that would become folders of that name."""
_KITTI = 256
"""Steps per pixel of disparity in a 16-bit PNG, as in KITTI's ground truth."""
_PNG_LIMIT_MM = 65535
"""A 16-bit PNG in millimeters ends at 65.535 m; beyond it a pixel is 0, as if there were no reading."""


def weights_warning(manifest: Manifest) -> str:
    """What must stand beside every result of these weights; empty for weights that are the user's own."""
    if manifest.provenance.random_weights:
        return RANDOM_WARNING
    shipped = bundled_checkpoint(manifest.contract.model)
    if shipped is not None and cached_sha256(shipped) == manifest.provenance.sha256:
        return DEMONSTRATION_WARNING
    return ""


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
    """What can make the depth wrong: shown even where notes are not."""
    remarks: tuple[str, ...] = ()
    """How the files are to be read."""
    notes: tuple[str, ...] = ()
    """What else a person should know about the frame."""

    def to_json(self) -> dict[str, Any]:
        """Figures of the frame, not its pixels."""
        values = self.result.values[self.result.valid]
        quantiles = [float(value) for value in np.percentile(values, (1, 50, 99))] if values.size else None
        return {
            "frame": self.name,
            "files": [str(path) for path in self.files],
            "unit": self.result.unit,
            "depth_p1_p50_p99" if self.result.unit == "m" else f"{self.result.semantics.value}_p1_p50_p99": quantiles,
            "scaled": self.result.scaled,
            "health": vars(self.result.health),
            "timing_ms": vars(self.result.timing),
            "warnings": [*self.warnings, *self.remarks],
            "notes": list(self.notes),
        }


def outputs(out: Path, name: str) -> dict[str, Path]:
    """Files of one frame by kind: ``.npy``, ``.png`` and ``.view.png`` in the folder ``out``, or the one file it is."""
    if out.suffix in (".npy", ".png"):
        return {out.suffix: out}
    return {kind: out / f"{name}{kind}" for kind in (".npy", ".png", ".view.png")}


def check_output(out: Path, source: FrameSource, bundle: Path) -> None:
    """Raise InputError unless results can be written without touching an input or the bundle; before anything runs."""
    single = out.suffix in (".npy", ".png")
    if single and len(source) > 1:
        raise InputError(f"-o {out} is one file, but there are several frames", "Give a folder.")
    if single and out.is_dir():
        raise InputError(f"-o {out} is a folder", "Give a file, or a folder whose name does not end in .npy or .png.")
    if not single and out.exists() and not out.is_dir():
        raise InputError(f"-o {out} is a file of an unknown kind: expected .npy, .png or a folder")
    if not out.exists() and out.suffix.lower() in _NO_OUTPUT:
        raise InputError(
            f"-o {out}: results are not written as {out.suffix.lower()}, which would lose or rescale depth",
            f"Give {out.with_suffix('.npy').name} (meters as float32), {out.with_suffix('.png').name} (16-bit "
            f"millimeters), or a folder, which takes both and a picture: -o {out.stem}",
        )
    folder = out.parent if single else out
    targets = [path for name in source.names for path in outputs(out, name).values()]
    check_output_paths(targets, (*source.files, bundle))
    planned = [path.resolve() for path in targets]
    if len(set(planned)) < len(planned):
        raise InputError(f"several frames would write the same file in {out}", "Rename the frames.")
    # Nothing is made before the first frame is written: a command that ends before leaves no empty folder.
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        probe = random_name(there / "cdm-export", "writable")
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
    to_meters: ToMeters | None = None,
    colors: str = DEFAULT_COLORS,
    limits: tuple[float, float] | None = None,
) -> Iterator[Refined]:
    """``refine`` every frame. A bad one goes to ``on_bad`` and is skipped, or with ``strict`` raises InputError."""
    for index, name in enumerate(source.names):
        try:
            yield refine(pipeline, source.load(index), out, caption, warning, to_meters, colors, limits)
        except InputError as error:
            if strict:
                raise
            on_bad(name, error)


def refine(
    pipeline: DepthPipeline,
    source: SourceFrame,
    out: Path,
    caption: str,
    warning: str,
    to_meters: ToMeters | None = None,
    colors: str = DEFAULT_COLORS,
    limits: tuple[float, float] | None = None,
) -> Refined:
    """Run one frame and write it.

    ``out`` ending in ``.npy`` takes float32 meters, in ``.png`` 16-bit millimeters; any other is a folder and takes
    both and a picture. Disparity is pixels, in ``.png`` times 256. Of output without a unit (``to_meters`` may give it
    meters) ``.npy`` takes the values and ``.png`` their range in this frame. All files are written or none.

    ``limits``: ends of the picture's color range; None for those of the frame. Raises InputError when sensor depth is
    wanted and no reading is in range, or when ``to_meters`` finds no scale; ParityError when the network's output holds
    NaN or Inf; nothing is written then.
    """
    warnings, notes = check_frame(source, pipeline.contract, to_meters)
    result = pipeline(source.frame)
    if result.health.non_finite_share > 0:
        share = result.health.non_finite_share
        raise ParityError(
            f"{source.name}: {share:.2%} of the network's output is NaN or Inf: nothing written",
            "Find out which backend is at fault with: cdm-export verify BUNDLE",
        )
    if to_meters is not None:
        try:
            result = to_meters(result, source.frame)
        except InputError as error:
            raise InputError(f"{source.name}: {error.message}", error.next_step) from error
    files, remarks = outputs(out, source.name), []
    contents: dict[Path, bytes] = {}
    if ".npy" in files:
        contents[files[".npy"]] = _npy(result)
    if ".png" in files and result.unit == "px":
        contents[files[".png"]], too_far = _disparity(result)
        remarks.append(f"{files['.png'].name} is disparity in pixels x {_KITTI}, 0 where there is none")
        if too_far:
            remarks.append(
                f"{too_far} pixel(s) beyond {65535 / _KITTI:.2f} px are 0 in {files['.png'].name}: 16 bits hold no more"
            )
    elif ".png" in files and result.unit != "m":
        contents[files[".png"]], low, high = _range(result)
        remarks.append(f"0 to 65535 in {files['.png'].name} is {low:.4g} to {high:.4g} of this frame, without a unit")
    elif ".png" in files:
        contents[files[".png"]], too_far = _millimeters(result)
        if too_far:
            remarks.append(f"{too_far} pixel(s) beyond 65.535 m are 0 in {files['.png'].name}: 16 bits hold no more")
    if ".view.png" in files:
        label = f"{source.name}: {caption}" + (f", {result.scaled}" if result.scaled else "")
        in_red = "\n".join(filter(None, (warning, *warnings)))
        contents[files[".view.png"]] = encode_png(_picture(pipeline, source, result, label, in_red, colors, limits))
    write_together(contents)
    return Refined(
        source.name,
        result,
        tuple(files.values()),
        tuple(warnings),
        remarks=tuple(remarks),
        notes=(*source.notes, *notes),
    )


def check_frame(
    source: SourceFrame, contract: ModelContract, to_meters: ToMeters | None = None
) -> tuple[list[str], list[str]]:
    """Warnings and notes about the frame's depth, where it is read. Raises InputError when no reading is in range."""
    if not contract.reads("depth") and (to_meters is None or not to_meters.needs_depth):
        return [], []
    warnings = require_readings(source, contract.max_depth)
    dropped = "" if warnings else dropped_note(source, contract.max_depth)
    return warnings, [dropped] if dropped else []


def _picture(
    pipeline: DepthPipeline,
    source: SourceFrame,
    result: DepthResult,
    label: str,
    warning: str,
    colors: str,
    limits: tuple[float, float] | None,
) -> NDArray[np.uint8]:
    """With the sensor's depth where there is one to compare meters with."""
    rgb, sensor = source.frame.rgb, source.frame.depth
    if sensor is None or result.unit != "m":
        return prediction_picture(rgb, result.values, result.unit, label, warning, colors=colors, limits=limits)
    word = "predicted" if not pipeline.contract.reads("depth") else "refined"
    return refinement_picture(rgb, sensor, result.depth_m, label, warning, word=word, colors=colors, limits=limits)


def _npy(result: DepthResult) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, result.values, allow_pickle=False)
    return buffer.getvalue()


def _millimeters(result: DepthResult) -> tuple[bytes, int]:
    """A 16-bit PNG, and how many pixels were too far for it."""
    millimeters = np.rint(result.depth_m.astype(np.float64) * 1000)
    too_far = millimeters > _PNG_LIMIT_MM
    image: NDArray[np.uint16] = np.where(too_far, 0, millimeters).astype(np.uint16)
    return _png_of_16_bits(image), int(too_far.sum())


def _disparity(result: DepthResult) -> tuple[bytes, int]:
    """A 16-bit PNG as KITTI's, and how many pixels were too near for it."""
    steps = np.rint(result.values.astype(np.float64) * _KITTI)
    too_near = steps > 65535
    image: NDArray[np.uint16] = np.where(too_near | ~result.valid, 0, steps).astype(np.uint16)
    return _png_of_16_bits(image), int(too_near.sum())


def _range(result: DepthResult) -> tuple[bytes, float, float]:
    """The values' range in this frame, stretched over 16 bits, and that range."""
    valid = result.values[result.valid].astype(np.float64)
    low, high = (float(valid.min()), float(valid.max())) if valid.size else (0.0, 0.0)
    share = (result.values.astype(np.float64) - low) / (high - low if high > low else 1.0)
    return _png_of_16_bits(np.where(result.valid, np.rint(65535 * share), 0).astype(np.uint16)), low, high


def _png_of_16_bits(image: NDArray[np.uint16]) -> bytes:
    written, data = cv2.imencode(".png", image)
    assert written
    return data.tobytes()
