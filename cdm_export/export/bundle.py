"""Checkpoint -> verified bundle.

PyTorch works in one process and every backend verifies in another, so that the large model exists once: frames, each
format in turn (``formats.py``), report, rename.
"""

import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cdm_export
from cdm_export import publish
from cdm_export.doctor.machine import missing_to_export
from cdm_export.export.detect_model import detect_model
from cdm_export.export.formats import exporters_of
from cdm_export.export.parity_report import require_passed, write_reports
from cdm_export.export.request import ExportRequest
from cdm_export.exporter import ExportJob
from cdm_export.parity.check_backend import BackendParity
from cdm_export.parity.golden import golden_records, prepare_frames
from cdm_export.predict.unused_options import check_depth_scale, check_far, check_max_depth
from cdm_export.progress import Progress
from cdm_export.reference_model.registry import get_variant, with_head_range, with_iterations
from cdm_export.reference_model.variant import Variant
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.bundle import MANIFEST, SCHEMA_VERSION, Bundle, Manifest
from cdm_export.runtimes.checkpoint_path import split_checkpoint
from cdm_export.runtimes.contract import MOST_METERS, ModelContract
from cdm_export.runtimes.errors import BackendUnavailable, CheckpointError, InputError
from cdm_export.runtimes.install import install
from cdm_export.runtimes.output_paths import check_replaced_path
from cdm_export.runtimes.sources import DEFAULT_DEPTH_SCALE, FrameSource, MirroredSource, open_source


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
    exporters = exporters_of(request)
    for exporter in exporters:
        exporter.check_host()
    if missing := missing_to_export():
        raise BackendUnavailable(
            f"exporting needs {', '.join(missing)}, not installed here", f"Add it: {install('export', 'cpu')}"
        )
    for exporter in exporters:
        exporter.check_request(tuple(each.name for each in exporters))
    request = _with_shipped_weights(request, progress)
    _check_numbers(request)
    variant = _variant(request, progress)
    contract = _contract(request, variant)
    source = _check_source(_open(request.frames, request, contract), request, progress)
    for exporter in exporters:
        exporter.check_sources(lambda name: _open(name, request, contract), progress)
    multiple, rule = contract.sizing.multiple, contract.sizing.rule
    camera, network = contract.camera, contract.network
    if rule == "fixed" and camera.width * network.height != camera.height * network.width:
        progress.note(f"frames of {camera} are stretched to {network}, as the reference does")
    if rule != "camera" and contract.input_size % multiple:
        progress.note(
            f"--input-size {contract.input_size} is no multiple of {multiple}: the network runs at {contract.network}, "
            "rounded as the reference does"
        )
    with publish.staging(request.out) as folder:
        references = prepare_frames(source, contract, folder / "golden", progress)
        outputs = folder / "outputs"
        outputs.mkdir()
        checkpoint = str(request.checkpoint) if request.checkpoint else None
        job = ExportJob(
            contract=contract,
            weights=WeightsSource(checkpoint=checkpoint, seed=request.random_weights),
            folder=folder,
            references=references,
            outputs=outputs,
            progress=progress,
        )
        for exporter in exporters:
            exporter.prepare(job)
        for exporter in exporters:
            exporter.make(job)
        assert job.provenance is not None
        progress.stage("report")
        reports = folder / "reports"
        write_reports(reports, job.checked, references, job.own_frames, outputs, contract, job.max_abs)
        for exporter in exporters:
            exporter.report(job, reports)
        exact = [parity for parity in job.checked if parity.label == "fp32"]
        require_passed(exact, reports, request.out.name, contract.far)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=request.out.name,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer=f"cdm-export {cdm_export.__version__}",
            contract=contract,
            provenance=job.provenance,
            artifacts=tuple(job.artifacts),
            dropped=tuple(job.dropped),
            golden=golden_records(folder, references, request.batch),
            reports=tuple(publish.record(folder, path) for path in sorted(reports.iterdir())),
        )
        shutil.rmtree(outputs)
        kept = {folder / record.path for record in manifest.files()}
        for surplus in set((folder / "golden").iterdir()) - kept:
            surplus.unlink()
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        publish.publish(folder, request.out, request.overwrite)
    return Bundle.open(request.out), job.checked


def _variant(request: ExportRequest, progress: Progress) -> Variant:
    """The model that was named, or that the checkpoint's shapes tell."""
    if request.model is None:
        assert request.checkpoint is not None
        progress.stage(f"which model is {request.checkpoint.name}?")
        variant = get_variant(detect_model(request.checkpoint))
    else:
        variant = get_variant(request.model)
    variant = variant if request.head_range is None else with_head_range(variant, request.head_range)
    return variant if request.iterations is None else with_iterations(variant, request.iterations)


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


def _processing(request: ExportRequest, variant: Variant) -> dict[str, Any]:
    """What a contract takes beside the usual; nothing for a model with one way of processing images."""
    asked, known = request.preprocessing, variant.preprocessings
    if asked is not None and asked not in known:
        raise InputError(
            f"--preprocessing {asked}: {variant.name} has "
            + (f"{' or '.join(known)}" if known else "one way of processing images"),
            "Leave it out.",
        )
    if request.aspect and (not known or asked in (None, known[0])):
        others = " or ".join(known[1:])
        raise InputError(
            f"--aspect: the size of {variant.name}'s network follows its own rule",
            f"It belongs to --preprocessing {others}." if others else "Leave it out.",
        )
    return {"preprocessing": asked or known[0], "aspect": request.aspect} if known else {}


def _contract(request: ExportRequest, variant: Variant) -> ModelContract:
    input_size = request.input_size or variant.default_input_size
    order = request.channel_order or variant.channel_orders[0]
    if order not in variant.channel_orders:
        raise InputError(
            f"--channel-order {order}: {variant.name} is run with {' or '.join(variant.channel_orders)} only",
            "Leave it out.",
        )
    max_depth = 6.0 if request.max_depth is None else request.max_depth
    processing = _processing(request, variant)
    contract = variant.contract(variant.name, request.camera, input_size, order, max_depth, request.far, **processing)
    reads_depth = contract.reads("depth")
    check_max_depth(contract, request.max_depth, reads_depth)
    check_far(contract, request.far)
    check_depth_scale(contract, request.depth_scale, reads_depth)
    return contract
