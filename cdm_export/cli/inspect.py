"""``cdm-export inspect``."""

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdm_export.cli.console import print_json
from cdm_export.cli.options import BundleArgument, Json, Quiet
from cdm_export.cli.terminal import print_table, terminal
from cdm_export.runtimes.contract import ModelContract, Semantics

if TYPE_CHECKING:
    from rich.console import Console

    from cdm_export.runtimes.graph_precision import GraphAudit, PrecisionPlan, Rewrite
    from cdm_export.runtimes.quantization import Quantization


def command(
    bundle: BundleArgument,
    full: Annotated[bool, typer.Option("--full", help="Check the sha256 of every file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What is inside a bundle: contract, artifacts, verdicts, provenance; nothing is run."""
    from cdm_export.runtimes import engines, local_results
    from cdm_export.runtimes.bundle import Bundle
    from cdm_export.runtimes.contract import Size
    from cdm_export.runtimes.signing import FOREIGN
    from cdm_export.tensorrt.describe import layer_report_lines

    opened = Bundle.open(bundle, full=full)
    manifest = opened.manifest
    here = [local for batch in manifest.batches for local in local_results.load(opened, batch).values()]
    foreign = local_results.foreign(opened)
    built = engines.scan(opened)
    if as_json:
        print_json(
            {
                "identity": opened.identity,
                "integrity": _integrity(full),
                "manifest": manifest.model_dump(mode="json"),
                "verified_here": [local.model_dump(mode="json") for local in here],
                "foreign": [{"path": str(one.path), "what": one.what} for one in foreign],
                "engines": [
                    {"path": str(engine.path), "own": engine.own, **engine.record.model_dump(mode="json")}
                    for engine in built
                ],
            }
        )
        return
    if quiet:
        return
    from rich.table import Table

    contract, provenance = manifest.contract, manifest.provenance
    console = terminal()
    rows: list[tuple[str, Any]] = [
        ("bundle", f"{bundle} (identity {opened.identity}, schema {manifest.schema_version})"),
        ("integrity", _integrity(full)),
        ("made", f"{manifest.created} by {manifest.producer}"),
        ("model", f"{contract.model}, {contract.semantics.value} in {contract.semantics.unit or 'no unit'}"),
        ("camera", f"{Size(*contract.camera)}, network {Size(*contract.network)}"),
        ("sensor depth", f"up to {contract.max_depth:g} m" if contract.reads("depth") else "not read"),
        ("output", _range(contract)),
        ("channel order", f"{contract.channel_order} inside the weights; the interface is RGB"),
        ("weights", _weights(provenance)),
        ("license", provenance.license or "no note"),
        *([("family", f"of {provenance.package}")] if provenance.package else []),
        ("golden frames", ", ".join(golden.name for golden in manifest.golden)),
    ]
    overview = Table(box=None, show_header=False, pad_edge=False)
    overview.add_column(style="bold", no_wrap=True)
    overview.add_column(overflow="fold")
    for row in rows:
        overview.add_row(*row)
    print_table(overview)
    for spec in (*contract.inputs, *contract.outputs):
        console.print(f"  {spec.name}: {spec.dtype} {list(spec.shape)}, {spec.unit}")
    for artifact in manifest.artifacts:
        size = sum(record.size for record in artifact.files) / 1e6
        producers = ", ".join(f"{name} {version}" for name, version in artifact.producers.items())
        opset = f"{'opset' if artifact.format == 'onnx' else 'specification'} {artifact.opset}"
        batch = f", {artifact.batch} frames at once" if artifact.batch > 1 else ""
        console.print(artifact.name, style="bold", end="")
        console.print(f" {artifact.state.value}{batch}, {opset}, {size:,.1f} MB")
        console.print(f"  made with {producers}")
        if artifact.name == "onnx/fp32":
            _print_rewrites(console, artifact.rewrites)
        if artifact.graph:
            _print_graph(console, artifact.graph, artifact.precision_plan)
        if artifact.quantization:
            _print_quantization(console, artifact.quantization)
        if artifact.interface:
            inputs = ", ".join(f"{spec.name} {spec.dtype} ({spec.unit})" for spec in artifact.interface.contract.inputs)
            console.print(f"  fed with {inputs}")
            console.print(f"  its 8-bit image alone moves the depth: {artifact.interface.loss}")
        for verdict in artifact.verdicts:
            console.print(f"  {verdict.backend}: {verdict} where it was made")
    for dropped in manifest.dropped:
        console.print(dropped.name, style="bold", end="")
        console.print(f" {'failed' if dropped.failed else 'dropped'}: {dropped.reason}")
    for local in here:
        latency = f", {local.p50_ms:.0f} ms" if local.p50_ms is not None else ""
        console.print(f"  {local.backend} {local.label}: {local.verdict} on this machine{latency}")

    for one in foreign:
        console.print(f"  {one.path.relative_to(opened.path)}: {one.what}; {FOREIGN}", soft_wrap=True)
    for engine in (engine for engine in built if engine.own):
        console.print("engine", style="bold", end="")
        console.print(f" {engine.path.parent}", soft_wrap=True)
        for line in layer_report_lines(engine.record):
            console.print(f"  {line}", soft_wrap=True)


_ONNX_COMPUTE_OPS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Softmax", "LayerNormalization")
_COREML_COMPUTE_OPS = ("linear", "matmul", "conv", "scaled_dot_product_attention", "softmax", "layer_norm", "quantize")


def _print_rewrites(console: "Console", rewrites: "dict[str, Rewrite]") -> None:
    applied = {name: rewrite for name, rewrite in rewrites.items() if not rewrite.skipped}
    named = ", ".join(f"{name} ({rewrite.modules})" for name, rewrite in applied.items()) or "none"
    macs = sum(rewrite.macs for rewrite in rewrites.values()) / 1e9
    nodes = sum(rewrite.nodes for rewrite in rewrites.values())
    console.print(f"  exact rewrites: {named}: {macs:.2f} G multiply-adds and {nodes} nodes less")
    for name, rewrite in rewrites.items():
        if rewrite.skipped:
            console.print(f"  not applied: {name}: {rewrite.skipped}")


def _print_graph(console: "Console", graph: "GraphAudit", precision_plan: "PrecisionPlan | None") -> None:
    """Nodes by type, and for a typed graph every island and what explains its casts."""
    by_type: Counter[str] = Counter()
    for kinds in graph.nodes.values():
        by_type.update(kinds)
    products = ", ".join(
        f"{operator} {' + '.join(f'{count} {kind}' for kind, count in graph.nodes[operator].items())}"
        for operator in (*_ONNX_COMPUTE_OPS, *_COREML_COMPUTE_OPS)
        if operator in graph.nodes
    )
    weights = ", ".join(f"{size:,.1f} MB {kind}" for kind, size in graph.weights_mb.items())
    counts = ", ".join(f"{count} {kind}" for kind, count in by_type.most_common())
    console.print(f"  nodes: {counts}; weights: {weights}")
    console.print(f"  {products}")
    if precision_plan is None:
        return
    for reason, islands in groupby(precision_plan.islands, key=lambda island: island.reason):
        names = [island.module for island in islands]
        shown = names[0] if len(names) == 1 else f"{len(names)} modules, {names[0]} ... {names[-1]}"
        console.print(f"  FP32: {shown}: {reason}")
    for block, why in precision_plan.residuals.items():
        console.print(f"  FP32 residual: {block}: {why}")
    console.print("  casts: " + "; ".join(f"{count} {why}" for why, count in graph.casts.items()))


def _print_quantization(console: "Console", quantization: "Quantization") -> None:
    """Calibration, what is integer and what is not, and speed."""
    smoothed = "smoothed channels" if quantization.smoothed else "channels as they are"
    frames = len(quantization.calibration.frames)
    lines = [
        f"int8: {len(quantization.steps)} products; ranges from {frames} frame(s) of {quantization.source}, "
        f"{quantization.observer}, {smoothed}",
        *(f"parts chosen by: {judgment}" for judgment in quantization.judgments),
        *(f"not int8: {part}: {reason}" for part, reason in quantization.excluded.items()),
        *([str(quantization.speed)] if quantization.speed else []),
    ]
    for line in lines:
        console.print(f"  {line}")


def _range(contract: ModelContract) -> str:
    """Where the output is valid, or what makes meters of it."""
    if contract.metric:
        return f"valid up to {contract.far:g} m"
    if contract.semantics is Semantics.DISPARITY:
        return "no meters; they take the pair's calibration"
    return "no meters; run --meters gives it some"


def _integrity(full: bool) -> str:
    return "sha256 of every file checked" if full else "sizes of all files checked; --full checks every sha256"


def _weights(provenance: Any) -> str:
    if provenance.random_weights is not None:
        seed = provenance.random_weights.seed
        return f"seeded random weights (seed {seed}): the depth means nothing; sha256 {provenance.sha256[:16]}…"
    return f"{provenance.checkpoint}, sha256 {provenance.sha256[:16]}…"
