"""``cdm-export evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdm_export.cli.console import print_json, progress
from cdm_export.cli.options import (
    BackendName,
    CheckpointOption,
    DepthScale,
    Json,
    PrecisionName,
    Quiet,
    Threads,
)
from cdm_export.cli.terminal import print_table, say, terminal
from cdm_export.runtimes.errors import InputError

if TYPE_CHECKING:
    from cdm_export.evaluate.result import Entry, Estimate, Evaluation


def command(
    what: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle; or a baseline: sgbm, nearest or telea.")],
    *,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="KIND:PATH",
            help="folder, hidden, sample, kitti-stereo-2015-occ or -noc, middlebury, tartanair (docs/evaluate.md).",
        ),
    ],
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    checkpoint: CheckpointOption = None,
    align: Annotated[
        str | None,
        typer.Option("--align", help="Of depth: none, median, lower_median, scale, scale_shift_depth."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=2**31 - 1, help="Images, the first so many.")
    ] = None,
    depth_scale: DepthScale = 1000.0,
    fit: Annotated[bool, typer.Option("--fit", help="Stretch images of other sizes to the bundle's network.")] = False,
    threads: Threads = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Result as NAME.json, or every image as NAME.csv.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Every backend and precision against ground truth: what the export cost in AbsRel, D1 or EPE.

    PyTorch runs beside them with --checkpoint; the others are compared with it image by image.
    """
    from cdm_export.evaluate.evaluate import EvaluateRequest, evaluate
    from cdm_export.evaluate.metrics import get_alignment
    from cdm_export.runtimes.cache import write_atomically
    from cdm_export.runtimes.output_paths import check_output_paths

    alignment = None if align is None else get_alignment(align)
    if out is not None:
        if out.suffix not in (".json", ".csv"):
            raise InputError(f"-o {out}: results are written as .json or .csv", f"For example -o {out.stem}.json")
        check_output_paths((out,), (Path(what), checkpoint))
    request = EvaluateRequest(what, data, backend, precision, checkpoint, alignment, limit, depth_scale, fit, threads)
    with progress(not quiet and not as_json) as shown:
        result = evaluate(request, shown)
    if out is not None:
        text = result.model_dump_json(indent=1) + "\n" if out.suffix == ".json" else _csv(result)
        write_atomically(out, text.encode())
    if as_json:
        print_json(result.model_dump(mode="json"))
    elif not quiet:
        _print(result)
        if out is not None:
            say(f"written: {out}")
    if result.interrupted:
        if not as_json:
            say("stopped; the same command goes on from here", error=True)
        raise typer.Exit(130)
    if not result.complete:
        raise typer.Exit(InputError.exit_code)


def _csv(result: "Evaluation") -> str:
    """One line per entry, image and region."""
    import csv
    import io

    metrics = list(dict.fromkeys(name for entry in result.entries for row in entry.regions.values() for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "image", "region", "pixels", *metrics])
    for entry in result.entries:
        for image, regions in entry.images.items():
            for region, row in regions.items():
                values = [repr(row[name]) if name in row else "" for name in metrics]
                writer.writerow([entry.name, image, region, int(row["pixels"]), *values])
    return text.getvalue()


def _print(result: "Evaluation") -> None:
    from rich.table import Table

    console = terminal()
    console.print(f"{result.evaluated} on {result.data}", markup=False)
    console.print(f"protocol {result.protocol}: {result.source}; alignment: {result.alignment}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for metric in result.headline:
        table.add_column(metric, justify="right")
    if result.compared_with:
        table.add_column(f"{result.headline[0]} against {result.compared_with}", justify="right")
    for entry in result.entries:
        table.add_row(entry.name, *_row(entry, "all", result))
    print_table(table)
    first = result.entries[0]
    if len(first.regions) > 1:
        console.print(f"{first.name} by region:", markup=False)
        regions = Table(box=None, pad_edge=False, header_style="bold")
        regions.add_column("", no_wrap=True)
        for metric in result.headline:
            regions.add_column(metric, justify="right")
        for region, row in first.regions.items():
            regions.add_row(region, *(_cell(row[metric]) for metric in result.headline))
        print_table(regions)
    for entry in result.entries:
        density = entry.regions.get("all", {}).get("density")
        if density is not None and density.value < 1:
            console.print(f"{entry.name}: has an answer at {density.value:.1%} of the pixels with truth", markup=False)
        if entry.failed:
            console.print(f"{entry.name}: {len(entry.failed)} image(s) without an answer", markup=False)
    by_reason: dict[str, list[str]] = {}
    for name, why in result.skipped.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        console.print(f"{', '.join(names)}: not run ({why})", markup=False)
    for note in result.notes:
        console.print(note, markup=False)


def _row(entry: "Entry", region: str, result: "Evaluation") -> list[str]:
    """Metrics of a region, and what they cost; empty cells where no image could be judged."""
    if region not in entry.regions:
        return []
    row = entry.regions[region]
    cells = [_cell(row[metric]) for metric in result.headline]
    if result.compared_with:
        difference = entry.differences.get(region, {}).get(result.headline[0])
        cells.append("" if difference is None else _cell(difference, signed=True))
    return cells


def _cell(estimate: "Estimate", signed: bool = False) -> str:
    shown = f"{estimate.value:+.4g}" if signed else f"{estimate.value:.4g}"
    if estimate.interval is None:
        return shown
    low, high = estimate.interval
    return f"{shown} ({low:.4g} to {high:.4g})"
