"""Collect what is known of a bundle and write it as one HTML page: no script, no request, nothing to install."""

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

import cdm_export
from cdm_export.bench.markdown import device_lines, environment_lines, parity_words, what_did_not_run
from cdm_export.bench.result import BenchResult, load_result, per_frame_note
from cdm_export.evaluate.result import Evaluation
from cdm_export.predict.frames import weights_warning
from cdm_export.report.charts import Point, latency_bars, scatter
from cdm_export.report.issues import known_issues
from cdm_export.report.sizes import SizeRow, compare_sizes
from cdm_export.runtimes import engines, local_results
from cdm_export.runtimes.bundle import Bundle, Verdict
from cdm_export.runtimes.cache import cache_dir, write_atomically
from cdm_export.runtimes.contract import ErrorClass, Size
from cdm_export.runtimes.errors import BackendUnavailable, InputError
from cdm_export.runtimes.install import install
from cdm_export.runtimes.output_paths import check_output_paths
from cdm_export.runtimes.signing import Kind, read_signed

_WIDEST = 1400
"""Pixels; wider pictures are scaled down."""
_ERROR_UNITS = {ErrorClass.RELATIVE: "mm", ErrorClass.RANGE: "share of the range", ErrorClass.PIXELS: "px"}
_PARTS = 16
"""Most sensitive parts of an INT8 network that are shown."""


@dataclass(frozen=True)
class ReportRequest:
    """What to write about."""

    bundle: Path
    """Bundle."""
    out: Path
    """HTML file."""
    bench: Path | None = None
    """Result of ``bench``; None for the newest of this machine."""
    beside: tuple[Path, ...] = ()
    """Bundles of the same weights and camera at other input sizes."""


@dataclass(frozen=True)
class _Row:
    """One verdict."""

    name: str
    verdict: Verdict
    where: str
    p50_ms: float | None
    """Of one frame."""
    disturbed: str = ""
    """How busy the machine was with something else while that was measured."""


def write_page(request: ReportRequest) -> Path:
    """Write the page, whole or not at all.

    Raises BundleError, InputError (a result of another bundle, bundles that cannot stand beside each other, a target
    inside the bundle), BackendUnavailable (jinja2 is not installed).
    """
    bundle = Bundle.open(request.bundle)
    if request.out.suffix != ".html":
        raise InputError(f"-o {request.out}: a report is written as .html", f"For example -o {request.out.stem}.html")
    check_output_paths((request.out,), (bundle.path, request.bench, *request.beside))
    result = _bench(bundle, request.bench)
    rows = list(_verdicts(bundle))
    template = _environment().get_template("page.html.j2")
    contract, manifest = bundle.manifest.contract, bundle.manifest
    points = [
        Point(
            entry.name,
            entry.stages["total"].p50,
            (entry.verdict.mean_mm if contract.metric else entry.verdict.mean) or 0.0,
            entry.verdict.verdict,
        )
        for entry in (result.entries if result else ())
        if entry.verdict is not None
    ]
    quantization = next((one.quantization for one in manifest.artifacts if one.quantization), None)
    text = template.render(
        version=cdm_export.__version__,
        bundle=bundle,
        manifest=manifest,
        contract=contract,
        camera=Size(*contract.camera),
        network=Size(*contract.network),
        random=manifest.provenance.random_weights,
        weights_warning=weights_warning(manifest),
        result=result,
        parity_words=parity_words,
        error_unit=_ERROR_UNITS[contract.semantics.error_class],
        bars=latency_bars(result.entries) if result else [],
        plot=scatter(points),
        per_frame_note=per_frame_note(result.entries) if result else "",
        remarks=[*device_lines(result), *what_did_not_run(result)] if result else [],
        environment=environment_lines(result.environment) if result else [],
        evaluations=_evaluations(bundle),
        rows=rows,
        gates=_gates(rows),
        fastest=_fastest(rows),
        issues=known_issues(bundle),
        sizes=_sizes(bundle, request.beside),
        pictures=list(_pictures(bundle)),
        artifacts=[_artifact(artifact) for artifact in manifest.artifacts],
        quantization=quantization,
        sensitive=list(quantization.sensitivity.items())[:_PARTS] if quantization else [],
        engines=[engine.record for engine in engines.scan(bundle) if engine.own],
        megabytes=sum({record.path: record.size for one in manifest.artifacts for record in one.files}.values()) / 1e6,
    )
    write_atomically(request.out, text.encode())
    return request.out


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise BackendUnavailable(
            "a report needs the package 'jinja2', which is not installed here",
            f"Add it with: {install('report')}",
        ) from None
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cdm_export.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _bench(bundle: Bundle, given: Path | None) -> BenchResult | None:
    path = given or local_results.find_bench(bundle)
    if path is None:
        return None
    result = load_result(path)
    if result.identity != bundle.identity:
        raise InputError(
            f"{path} was measured on another bundle: {result.bundle} ({result.identity}), this is {bundle.identity}",
            f"Measure this one: cdm-export bench {bundle.path}",
        )
    return result


def _evaluations(bundle: Bundle) -> list[Evaluation]:
    """Those of this user on this machine, the newest first; one of another version is left out."""
    found = []
    for path in local_results.find_evaluations(bundle):
        with contextlib.suppress(OSError, ValueError):
            found.append(read_signed(Kind.EVALUATION, path, Evaluation)[0])
    return found


def _verdicts(bundle: Bundle) -> Iterator[_Row]:
    """Those of the machine that made the bundle, then those made here."""
    for artifact in bundle.manifest.artifacts:
        for verdict in artifact.verdicts:
            yield _Row(f"{verdict.backend} {artifact.label}", verdict, "where it was made", None)
    for batch in bundle.manifest.batches:
        for local in local_results.load(bundle, batch).values():
            p50_ms = local.p50_ms if batch == 1 else None
            name = f"{local.backend} {local.label}"
            yield _Row(name, local.verdict, "on this machine", p50_ms, local.disturbed)


def _gates(rows: list[_Row]) -> list[_Row]:
    """Every backend and precision once: with the verdict of this machine where there is one."""
    return list({row.name: row for row in rows}.values())


def _fastest(rows: list[_Row]) -> _Row | None:
    timed = [row for row in rows if row.p50_ms is not None and row.verdict.passed]
    return min(timed, key=lambda row: row.p50_ms or 0.0, default=None)


def _sizes(bundle: Bundle, beside: tuple[Path, ...]) -> list[SizeRow]:
    return compare_sizes([bundle, *(Bundle.open(path) for path in beside)]) if beside else []


def _pictures(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """(caption, data URI) of the parity heat maps, and of what a bisect on this machine drew."""
    for record in bundle.manifest.reports:
        if record.path.endswith(".png"):
            yield f"worst frame: {Path(record.path).stem.replace('-', ' ', 1)}", _data_uri(bundle.file(record))
    for path in sorted((cache_dir() / bundle.identity).glob("*.png")):
        yield f"error along the network: {path.stem}", _data_uri(path)


def _data_uri(path: Path) -> str:
    picture = cv2.imread(str(path))
    if picture is None:
        raise InputError(f"{path} is no picture")
    if picture.shape[1] > _WIDEST:
        picture = cv2.resize(picture, None, fx=_WIDEST / picture.shape[1], fy=_WIDEST / picture.shape[1])
    written, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert written
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _artifact(artifact: Any) -> dict[str, Any]:
    """What a row of the table of artifacts shows."""
    nodes: dict[str, int] = {}
    for kinds in (artifact.graph.nodes if artifact.graph else {}).values():
        for kind, count in kinds.items():
            nodes[kind] = nodes.get(kind, 0) + count
    islands: dict[str, int] = {}
    for island in artifact.precision_plan.islands if artifact.precision_plan else ():
        islands[island.reason] = islands.get(island.reason, 0) + 1
    return {
        "name": artifact.name,
        "state": artifact.state.value,
        "megabytes": sum(record.size for record in artifact.files) / 1e6,
        "opset": artifact.opset,
        "nodes": nodes,
        "islands": islands,
        "residuals": artifact.precision_plan.residuals if artifact.precision_plan else {},
        "producers": artifact.producers,
    }
