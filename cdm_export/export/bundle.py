"""Checkpoint -> verified bundle.

PyTorch works in one process and every backend verifies in another, so that the large model exists once: frames,
reference outputs and ONNX (``onnx/worker.py``), each backend against the reference, report, rename.
"""

import itertools
import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import cdm_export
from cdm_export import publish
from cdm_export.coreml.artifacts import CoremlRequest, add_coreml, check_coreml
from cdm_export.doctor.machine import missing_to_export
from cdm_export.export.detect_model import detect_model
from cdm_export.export.parity_report import require_passed, write_reports
from cdm_export.onnx.worker import Made, MadeGraph, MakeJob, make_onnx
from cdm_export.parity.check_backend import BackendParity, check_backend, check_outputs
from cdm_export.parity.golden import ReferenceFrame, golden_records, prepare_frames
from cdm_export.parity.image_input import image_frames
from cdm_export.predict.unused_options import check_depth_scale, check_far, check_max_depth
from cdm_export.progress import Progress
from cdm_export.quantize.artifacts import Int8Request, add_int8, check_source
from cdm_export.quantize.frame_figures import warn_of_unlike_frames
from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.registry import get_variant, with_head_range
from cdm_export.reference_model.variant import Variant
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.bundle import MANIFEST, SCHEMA_VERSION, Artifact, Bundle, Manifest, State
from cdm_export.runtimes.checkpoint_path import split_checkpoint
from cdm_export.runtimes.contract import IMAGE, MOST_METERS, ModelContract, Size
from cdm_export.runtimes.errors import BackendUnavailable, CheckpointError, InputError
from cdm_export.runtimes.graph_precision import LowPrecision
from cdm_export.runtimes.install import install
from cdm_export.runtimes.output_paths import check_replaced_path
from cdm_export.runtimes.sources import DEFAULT_DEPTH_SCALE, FrameSource, MirroredSource, open_source

_REFERENCE = "eager float32 PyTorch"


@dataclass(frozen=True)
class ExportRequest:
    """What to export; defaults are the reference implementation's."""

    out: Path
    """Bundle to make."""
    camera: Size
    """Size of the camera's frames."""
    checkpoint: Path | None = None
    """Checkpoint file, ``FILE#KEY`` for one of its sets of weights; or ``random_weights``; or neither, for a model
    whose weights ship with the package."""
    random_weights: int | None = None
    """Seed of random weights; or ``checkpoint``."""
    model: str | None = None
    """Registry name; None to read it off the checkpoint."""
    frames: str = "sample"
    """Source of the frames parity is measured on."""
    depth_scale: float | None = None
    """Sensor units per meter of those frames; None for millimeters."""
    fit: bool = False
    """Crop and resize frames of another size."""
    input_size: int | None = None
    """Lower bound of the network's sides, pixels; None for the variant's own."""
    channel_order: ChannelOrder | None = None
    """Of CDM ``bgr`` as the reference implementation runs its weights, ``rgb`` without its channel swap; None for the
    variant's own."""
    max_depth: float | None = None
    """Meters; sensor readings beyond are missing; None for 6. Only for models that read sensor depth."""
    far: float | None = None
    """Meters; depth beyond is invalid; None for the variant's own."""
    head_range: float | None = None
    """Meters that the largest output of a metric head means; None for the variant's own."""
    low_precisions: tuple[LowPrecision, ...] = ("fp16",)
    """Graphs to make beside FP32; ``bf16`` has opset 22 and is a candidate until something with BF16 has run it."""
    batch: int = 1
    """Frames at once of a second FP32 and a second FP16 graph; 1 makes none."""
    overwrite: bool = False
    """Replace an existing bundle."""
    coreml: CoremlRequest | None = None
    """Core ML packages to make beside ONNX; None makes none."""
    int8: Int8Request | None = None
    """INT8 graphs to make beside the others; None makes none."""


def export_bundle(request: ExportRequest, progress: Progress) -> tuple[Bundle, list[BackendParity]]:
    """Make, verify and publish a bundle.

    What FP32 misses its gate with is no bundle: ParityError, nothing is published, and the report lies in the cache. A
    reduced precision that misses its own stays in the bundle as ``failed``, which nothing runs and a bisect can look
    into. Raises InputError, CheckpointError (bad input) and BackendUnavailable (no backend to verify with) as well.
    """
    publish.check_target(request.out, request.overwrite)
    calibration_path = Path(request.int8.calibration) if request.int8 is not None else None
    weights = split_checkpoint(request.checkpoint)[0] if request.checkpoint is not None else None
    check_replaced_path(request.out, (weights, Path(request.frames), calibration_path))
    if not any(_verifies(backend) and backend.installed for backend in BACKENDS.values()):
        raise BackendUnavailable("no backend is installed to verify the export with", f"Add them: {install('cpu')}")
    if missing := missing_to_export():
        raise BackendUnavailable(
            f"exporting needs {', '.join(missing)}, not installed here", f"Add it: {install('export', 'cpu')}"
        )
    if request.coreml is not None:
        check_coreml(request.coreml, request.low_precisions, request.int8 is not None)
        if request.batch > 1:
            progress.note(f"--batch {request.batch} is for the ONNX graphs: Core ML packages take one frame")
    request = _with_shipped_weights(request, progress)
    _check_numbers(request)
    if request.model is None:
        assert request.checkpoint is not None
        progress.stage(f"which model is {request.checkpoint.name}?")
        variant = get_variant(detect_model(request.checkpoint))
    else:
        variant = get_variant(request.model)
    if request.head_range is not None:
        variant = with_head_range(variant, request.head_range)
    contract = _contract(request, variant)
    source = _check_source(_open(request.frames, request, contract), request, progress)
    calibration = None
    if request.int8 is not None:
        calibration = _open(request.int8.calibration, request, contract)
        check_source(calibration, request.int8.calibration, progress)
    multiple = contract.sizing.multiple
    if contract.sizing.rule == "lower_bound" and contract.input_size % multiple:
        progress.note(
            f"--input-size {contract.input_size} is no multiple of {multiple}: the network runs at {contract.network}, "
            "rounded as the reference does"
        )
    with publish.staging(request.out) as folder:
        references = prepare_frames(source, contract, folder / "golden", progress)
        ranges = folder / "calibration"
        frames = prepare_frames(calibration, contract, ranges, progress) if calibration is not None else []
        warn_of_unlike_frames(frames, references, contract, progress)
        outputs = folder / "outputs"
        for made_here in (outputs, folder / "onnx"):
            made_here.mkdir()
        images = None
        if request.coreml is not None and request.coreml.image:
            images = image_frames(references, contract, folder / "golden", outputs)
        job = MakeJob(
            contract=contract,
            weights=WeightsSource(
                checkpoint=str(request.checkpoint) if request.checkpoint else None, seed=request.random_weights
            ),
            frames=tuple(str(reference.path) for reference in references),
            more_frames=tuple(str(frame.path) for frame in images.fed) if images else (),
            low_precisions=request.low_precisions,
            batch=request.batch,
            folder=str(folder / "onnx"),
            outputs=str(outputs),
        )
        made = make_onnx(job, progress)
        parities = [_check(graph, job, references, progress) for graph in made.graphs]
        checked = list(itertools.chain.from_iterable(parities))
        artifacts = [_artifact(graph, made, folder, found) for graph, found in zip(made.graphs, parities, strict=True)]
        int8 = None
        if request.int8 is not None:
            singles = [parity for parity in checked if parity.batch == 1]
            int8 = add_int8(job, made, request.int8, frames, singles, folder, references, _REFERENCE, progress)
            artifacts += int8.artifacts
            checked += int8.required
        packages = None
        if request.coreml is not None:
            packages = add_coreml(
                job,
                made,
                request.coreml,
                folder,
                references,
                images,
                int8.made if int8 is not None else None,
                _REFERENCE,
                progress,
            )
            artifacts += packages.artifacts
            checked += packages.required
        progress.stage("report")
        reports = folder / "reports"
        own: dict[str, list[ReferenceFrame]] = {IMAGE: images.frames} if images else {}
        write_reports(reports, checked, references, own, outputs, contract, made.max_abs)
        if packages is not None:
            packages.write_table(reports)
        if int8 is not None:
            int8.write_table(reports)
        exact = [parity for parity in checked if parity.label == "fp32"]
        require_passed(exact, reports, request.out.name, contract.far)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=request.out.name,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer=f"cdm-export {cdm_export.__version__}",
            contract=contract,
            provenance=made.provenance,
            artifacts=tuple(artifacts),
            dropped=tuple(int8.dropped) if int8 is not None else (),
            golden=golden_records(folder, references, request.batch),
            reports=tuple(publish.record(folder, path) for path in sorted(reports.iterdir())),
        )
        shutil.rmtree(outputs)
        shutil.rmtree(ranges, ignore_errors=True)
        kept = {folder / record.path for record in manifest.files()}
        for surplus in set((folder / "golden").iterdir()) - kept:
            surplus.unlink()
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        publish.publish(folder, request.out, request.overwrite)
    return Bundle.open(request.out), checked


def _check(graph: MadeGraph, job: MakeJob, references: list[ReferenceFrame], progress: Progress) -> list[BackendParity]:
    """Every backend that runs a graph here, and for typed graphs the typed network in PyTorch."""
    outputs, contract = Path(job.outputs), job.contract.batched(graph.batch)
    parities = []
    if graph.precision in job.low_precisions and graph.batch == 1:
        parities.append(check_outputs("torch", graph.precision, outputs, job.contract, references, _REFERENCE))
    for name, backend in BACKENDS.items():
        if _verifies(backend) and backend.installed and graph.precision in backend.precisions.get(graph.precision, ()):
            main = Path(job.folder) / graph.files[0]
            try:
                parity = check_backend(
                    name, main, contract, graph.precision, references, _REFERENCE, progress, keep=outputs
                )
            except BackendUnavailable as error:
                if graph.precision == "fp32":
                    raise  # every CPU has that
                progress.note(f"{name} {graph.precision} is not verified here: {error.message}")
                continue
            parities.append(parity)
    return parities


def _artifact(graph: MadeGraph, made: Made, folder: Path, parities: list[BackendParity]) -> Artifact:
    if any(not parity.verdict.passed for parity in parities):
        state = State.FAILED
    elif any(BACKENDS[parity.backend].format == "onnx" for parity in parities):
        state = State.PUBLISHED
    else:
        state = State.CANDIDATE  # no backend of this machine executed it
    return graph.artifact(folder, made.rewrites, state, (parity.verdict for parity in parities))


def _verifies(backend: Backend) -> bool:
    """Backends that verify an ONNX artifact on the exporting machine: those that run on any CPU."""
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
    for name, value in (
        ("--max-depth", request.max_depth), ("--far", request.far), ("--head-range", request.head_range)
    ):  # fmt: skip
        if value is not None and not 0 < value <= MOST_METERS:
            raise InputError(f"{name} must be above 0 meters and at most {MOST_METERS:.0f}, got {value}")
    if request.checkpoint is None and request.model is None:
        raise InputError("--random-weights needs --model", "For example --model cdm-vits; see: cdm-export models")
    if request.checkpoint is not None and not split_checkpoint(request.checkpoint)[0].exists():
        raise CheckpointError(f"{request.checkpoint}: no such file")


def _open(name: str, request: ExportRequest, contract: ModelContract) -> FrameSource:
    return open_source(
        name,
        depth_scale=DEFAULT_DEPTH_SCALE if request.depth_scale is None else request.depth_scale,
        camera=request.camera,
        fit=request.fit,
        needs_depth=contract.reads("depth"),
        needs_right=contract.reads("right"),
    )


def _check_source(source: FrameSource, request: ExportRequest, progress: Progress) -> FrameSource:
    """The source, with as many mirror images as make its frames fill a batch."""
    if len(source) == 0:
        raise InputError(f"'{request.frames}' holds no frames: parity needs at least one")
    source.load(0)
    filled = MirroredSource(source, request.batch)
    if len(filled) < request.batch:
        raise InputError(
            f"--batch {request.batch} is checked on as many different frames, '{request.frames}' gives {len(source)} "
            f"({len(filled)} with mirror images)",
            "Give more: --frames FOLDER, or --frames synthetic:N.",
        )
    if len(filled) > len(source):
        progress.note(f"a batch of {request.batch} is checked on {filled.description}")
    return filled


def _contract(request: ExportRequest, variant: Variant) -> ModelContract:
    input_size = request.input_size or variant.default_input_size
    order = request.channel_order or variant.channel_orders[0]
    if order not in variant.channel_orders:
        raise InputError(
            f"--channel-order {order}: {variant.name} is run with {' or '.join(variant.channel_orders)} only",
            "Leave it out.",
        )
    max_depth = 6.0 if request.max_depth is None else request.max_depth
    contract = variant.contract(variant.name, request.camera, input_size, order, max_depth, request.far)
    reads_depth = contract.reads("depth")
    check_max_depth(contract, request.max_depth, reads_depth)
    check_far(contract, request.far)
    check_depth_scale(contract, request.depth_scale, reads_depth)
    return contract
