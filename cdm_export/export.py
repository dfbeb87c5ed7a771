"""Checkpoint -> verified bundle.

PyTorch works in one process and every backend verifies in another, so that the large model exists once: frames,
reference outputs and ONNX (``make_onnx.py``), each backend against the reference, report, rename.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import cdm_export
from cdm_export import publish
from cdm_export.backend_parity import BackendParity, check_backend
from cdm_export.detect_model import detect_model
from cdm_export.doctor import INSTALL_EXPORT, missing_to_export
from cdm_export.gates import GATES
from cdm_export.golden import ReferenceFrame, load_reference, prepare_frames
from cdm_export.make_onnx import MakeJob, make_onnx
from cdm_export.onnx_export import OPSET
from cdm_export.pictures import error_picture, write_png
from cdm_export.progress import Progress
from reference_model.config import PATCH, ChannelOrder
from reference_model.registry import get_variant
from reference_model.variant import Variant
from reference_model.weights import bundled_checkpoint
from runtimes.backends import BACKENDS
from runtimes.bundle import MANIFEST, Artefact, Bundle, Golden, Manifest, State
from runtimes.cache import cache_dir, write_atomically
from runtimes.contract import DEFAULT_FAR, ModelContract, Precision, Size
from runtimes.errors import BackendUnavailable, CheckpointError, InputError, ParityError
from runtimes.processing import postprocess
from runtimes.sources import FrameSource, open_source

PRECISION: Precision = "fp32"
_GOLDEN_FRAMES = 4
"""Reference frames kept in the bundle; all frames are verified."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export; defaults are the reference implementation's."""

    out: Path
    """Bundle to make."""
    camera: Size
    """Size of the camera's frames."""
    checkpoint: Path | None = None
    """Checkpoint file; or ``random_weights``; or neither, for a model whose weights ship with the package."""
    random_weights: int | None = None
    """Seed of random weights; or ``checkpoint``."""
    model: str | None = None
    """Registry name; None to read it off the checkpoint."""
    frames: str = "sample"
    """Source of the frames parity is measured on."""
    depth_scale: float = 1000.0
    """Sensor units per metre of those frames."""
    fit: bool = False
    """Crop and resize frames of another size."""
    input_size: int | None = None
    """Lower bound of the network's sides, pixels; None for the variant's own."""
    channel_order: ChannelOrder = "bgr"
    """``bgr`` as the reference implementation runs its weights; ``rgb`` without its channel swap."""
    max_depth: float = 6.0
    """Metres; sensor readings beyond are missing."""
    far: float = DEFAULT_FAR
    """Metres; refined depth beyond is invalid."""
    overwrite: bool = False
    """Replace an existing bundle."""


def export_bundle(request: ExportRequest, progress: Progress) -> tuple[Bundle, list[BackendParity]]:
    """Make, verify and publish a bundle.

    Raises InputError, CheckpointError (bad input), BackendUnavailable (no backend to verify with) and ParityError (a
    gate failed or was inconclusive); then nothing is published, and the report lies in the cache.
    """
    publish.check_target(request.out, request.overwrite)
    for given in (request.checkpoint, Path(request.frames)):
        if given is not None and given.exists() and given.resolve().is_relative_to(request.out.resolve()):
            raise InputError(f"{given} lies inside {request.out}, which would be replaced", "Choose another -o.")
    backends = [name for name, backend in BACKENDS.items() if _verifies(name) and backend.installed]
    if not backends:
        raise BackendUnavailable(
            "no backend is installed to verify the export with", "Add them: pip install 'cdm-export[cpu]'"
        )
    if missing := missing_to_export():
        raise BackendUnavailable(
            f"exporting needs {', '.join(missing)}, not installed here", f"Add it: {INSTALL_EXPORT}"
        )
    request = _with_shipped_weights(request, progress)
    _check_numbers(request)
    source = open_source(request.frames, depth_scale=request.depth_scale, camera=request.camera, fit=request.fit)
    _check_source(source, request)
    if request.model is None:
        assert request.checkpoint is not None
        progress.stage(f"which model is {request.checkpoint.name}?")
        variant = get_variant(detect_model(request.checkpoint))
    else:
        variant = get_variant(request.model)
    contract = _contract(request, variant)
    if contract.input_size % PATCH:
        progress.note(
            f"--input-size {contract.input_size} is no multiple of {PATCH}: the network runs at {contract.network}, "
            "rounded as the reference does"
        )
    with publish.staging(request.out) as folder:
        references = prepare_frames(source, contract, folder / "golden", progress)
        main = folder / "onnx" / f"{PRECISION}.onnx"
        job = MakeJob(
            contract=contract,
            checkpoint=str(request.checkpoint) if request.checkpoint else None,
            random_weights=request.random_weights,
            frames=tuple(str(reference.path) for reference in references),
            onnx=str(main),
        )
        made = make_onnx(job, progress)
        outputs = folder / "outputs"
        outputs.mkdir()
        parities = [
            check_backend(name, main, contract, PRECISION, references, "eager float32 PyTorch", progress, keep=outputs)
            for name in backends
        ]
        progress.stage("report")
        reports = folder / "reports"
        _write_reports(reports, parities, references, outputs, contract)
        _gate(parities, reports, request)
        manifest = Manifest(
            schema_version=1,
            name=request.out.name,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer=f"cdm-export {cdm_export.__version__}",
            contract=contract,
            provenance=made.provenance,
            artefacts=(
                Artefact(
                    name=f"onnx/{PRECISION}",
                    format="onnx",
                    precision=PRECISION,
                    opset=OPSET,
                    main=f"onnx/{PRECISION}.onnx",
                    files=tuple(publish.record(folder, path) for path in sorted((folder / "onnx").iterdir())),
                    producers=made.versions,
                    rewrites=made.rewrites,
                    state=State.PUBLISHED,
                    verdicts=tuple(parity.verdict for parity in parities),
                ),
            ),
            golden=tuple(
                Golden(name=reference.name, file=publish.record(folder, reference.path))
                for reference in references[:_GOLDEN_FRAMES]
            ),
            reports=tuple(publish.record(folder, path) for path in sorted(reports.iterdir())),
        )
        for surplus in (*outputs.iterdir(), *(reference.path for reference in references[_GOLDEN_FRAMES:])):
            surplus.unlink()
        outputs.rmdir()
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        publish.publish(folder, request.out, request.overwrite)
    return Bundle.open(request.out), parities


def _verifies(name: str) -> bool:
    """Backends that verify an ONNX artefact on the exporting machine: those that run on any CPU."""
    backend = BACKENDS[name]
    return backend.format == "onnx" and backend.device == "cpu"


def _with_shipped_weights(request: ExportRequest, progress: Progress) -> ExportRequest:
    """A model named without weights means those that ship with the package, when it has some."""
    if request.checkpoint is None and request.random_weights is None and request.model is not None:
        shipped = bundled_checkpoint(get_variant(request.model).name)
        if shipped is not None:
            progress.note(f"{request.model} with the weights that ship with cdm-export, a demonstration model")
            return replace(request, checkpoint=shipped)
    return request


def _check_numbers(request: ExportRequest) -> None:
    if (request.checkpoint is None) == (request.random_weights is None):
        raise InputError("give either a checkpoint or --random-weights SEED")
    if request.input_size is not None and not 14 <= request.input_size <= 4096:
        raise InputError(f"--input-size must be from 14 to 4096 pixels, got {request.input_size}")
    for name, value in (("--max-depth", request.max_depth), ("--far", request.far)):
        if not 0 < value < float("inf"):
            raise InputError(f"{name} must be a positive number of metres, got {value}")
    if request.checkpoint is None and request.model is None:
        raise InputError("--random-weights needs --model", "For example --model cdm-vits; see: cdm-export models")
    if request.checkpoint is not None and not request.checkpoint.exists():
        raise CheckpointError(f"{request.checkpoint}: no such file")


def _check_source(source: FrameSource, request: ExportRequest) -> None:
    if len(source) == 0:
        raise InputError(f"'{request.frames}' holds no frames: parity needs at least one")
    source.load(0)


def _contract(request: ExportRequest, variant: Variant) -> ModelContract:
    input_size = request.input_size or variant.default_input_size
    return variant.contract(
        variant.name, request.camera, input_size, request.channel_order, request.max_depth, request.far
    )


def _write_reports(
    folder: Path,
    parities: list[BackendParity],
    references: list[ReferenceFrame],
    outputs: Path,
    contract: ModelContract,
) -> None:
    """``parity.json``, and for each backend the heat map of its worst frame."""
    folder.mkdir()
    report: dict[str, Any] = {
        "gates": {name: vars(gate) for name, gate in GATES.items()},
        "contract": contract.model_dump(mode="json"),
        "backends": [parity.model_dump(mode="json") for parity in parities],
    }
    (folder / "parity.json").write_text(json.dumps(report, indent=1))
    for parity in parities:
        means = [float("inf") if frame.depth.mean is None else frame.depth.mean for frame in parity.frames]
        worst = means.index(max(means))
        arrays = load_reference(references[worst].path)
        candidate = np.load(outputs / f"{parity.backend}-{worst}.npy", allow_pickle=False)
        caption = f"{contract.model} {parity.precision} on {parity.backend}, frame {references[worst].name}"
        picture = error_picture(
            arrays["rgb"],
            arrays["depth"],
            postprocess(candidate, contract)[0],
            GATES[parity.precision].p99,
            f"{caption}: {parity.verdict}",
        )
        write_png(folder / f"{parity.backend}-{parity.precision}.png", picture)


def _gate(parities: list[BackendParity], reports: Path, request: ExportRequest) -> None:
    """Raise ParityError unless every backend passed; the report is kept in the cache."""
    bad = [parity for parity in parities if parity.verdict.verdict != "passed"]
    if not bad:
        return
    lines = [f"{parity.backend} {parity.precision}: {parity.verdict}" for parity in bad]
    kept = cache_dir() / "failed" / request.out.name
    try:
        for path in reports.iterdir():
            write_atomically(kept / path.name, path.read_bytes())
        next_step = f"The report is in {kept}."
    except OSError as error:
        next_step = f"The report could not be kept in {kept}: {error.strerror}."
    predicted = bad[0].frames[0].reference_depth if bad[0].frames else None
    if bad[0].verdict.verdict == "inconclusive" and predicted is not None and predicted[1] > request.far:
        next_step += (
            f" PyTorch itself predicts {predicted[0]:.3g} to {predicted[1]:.3g} m on frame {bad[0].frames[0].frame}, "
            f"and --far {request.far:g} makes everything beyond invalid: is this the right checkpoint, or does it want "
            "a larger --far?"
        )
    raise ParityError("nothing was published: " + "; ".join(lines), next_step)
