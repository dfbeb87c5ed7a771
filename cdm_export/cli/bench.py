"""``cdm-export bench``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdm_export.cli.console import print_json, progress
from cdm_export.cli.options import BackendName, BundleArgument, CheckpointOption, Json, PrecisionName, Quiet
from cdm_export.cli.terminal import print_table, say, terminal
from cdm_export.runtimes.errors import InputError

if TYPE_CHECKING:
    from cdm_export.bench.compare import Comparison
    from cdm_export.bench.result import BenchResult


def command(
    bundle: BundleArgument,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    seconds: Annotated[float, typer.Option("--seconds", help="Timed seconds per backend, at least 5 frames.")] = 10.0,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Timed frames per backend, instead of --seconds.")
    ] = None,
    threads: Annotated[
        str, typer.Option("--threads", help="Comma-separated numbers of compute threads, e.g. 1,2; 0 for all.")
    ] = "0",
    idle: Annotated[
        float, typer.Option("--idle", help="Milliseconds to wait before every frame: a camera's rhythm, cooler clocks.")
    ] = 0.0,
    checkpoint: CheckpointOption = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OLD.json", help="Earlier result: what changed, what is noise.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the result: NAME.json, or NAME.md for people.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Latency of every backend that can run here: fresh processes, warm-up, frames in turn, percentiles."""
    from cdm_export.bench import BenchRequest, bench_bundle, load_result
    from cdm_export.bench.compare import compare_results
    from cdm_export.bench.markdown import to_markdown
    from cdm_export.runtimes.cache import write_atomically
    from cdm_export.runtimes.output_paths import check_output_paths

    if out is not None and out.suffix not in (".json", ".md"):
        raise InputError(f"-o {out}: results are written as .json or .md", f"For example -o {out.stem or 'bench'}.json")
    if out is not None:
        check_output_paths((out,), (bundle, checkpoint, compare))
    old = load_result(compare) if compare is not None else None
    request = BenchRequest(bundle, backend, precision, checkpoint, _threads(threads), frames, seconds, idle)
    with progress(not quiet and not as_json) as shown:
        result = bench_bundle(request, shown)
    if out is not None:
        text = result.model_dump_json(indent=1) + "\n" if out.suffix == ".json" else to_markdown(result)
        write_atomically(out, text.encode())
    comparison = compare_results(result, old) if old is not None else None
    if as_json:
        data = result.model_dump(mode="json")
        if comparison is not None:
            data["compared"] = {
                "changes": [{**vars(change), "word": change.word} for change in comparison.changes],
                "only": comparison.only,
                "conditions": comparison.conditions,
            }
        print_json(data)
    elif not quiet:
        _print(result)
        if comparison is not None:
            _print_comparison(comparison)
        if out is not None:
            say(f"written: {out}")
        say(f"next: cdm-export report {bundle}")
    if not result.complete:
        raise typer.Exit(130)
    if result.failed:
        raise typer.Exit(1)


def _threads(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"--threads wants numbers, got '{text}'", "For example --threads 1,2") from None
    if any(number < 0 for number in numbers):
        raise InputError(f"--threads cannot be negative, got '{text}'")
    return numbers


def _print(result: "BenchResult") -> None:
    from rich.table import Table

    from cdm_export.bench.markdown import device_lines, parity_words, what_did_not_run
    from cdm_export.bench.result import per_frame_note

    console = terminal()
    console.print(f"{result.model}, camera {result.camera}, network {result.network}, {result.weights}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ms", no_wrap=True)
    for title in ("p50", "p90", "p99", "max", "frames/s", "ratio", "95 %"):
        table.add_column(title, justify="right")
    for entry in sorted(result.entries, key=lambda entry: entry.mean[0] / entry.batch):
        total, (ratio, low, high) = entry.stages["total"], entry.ratio
        table.add_row(
            entry.name,
            *(f"{value:.4g}" for value in (total.p50, total.p90, total.p99, total.max)),
            f"{entry.frames_per_second:.3g}",
            f"{ratio:.2f}",
            f"{low:.2f}-{high:.2f}",
        )
    print_table(table)
    console.print(f"ratio: against {result.baseline}, round by round")
    if note := per_frame_note(result.entries):
        console.print(note)
    for entry in result.entries:
        memory = entry.peak_rss_mb if entry.rss_anon_mb is None else entry.rss_anon_mb
        console.print(
            f"{entry.name}: on {entry.description['device']}, {entry.description['provider']}; first depth after "
            f"{(entry.open_ms + entry.first_ms) / 1e3:.2f} s; {memory:.0f} MB; parity {parity_words(entry)}",
            markup=False,
        )
    for line in (*device_lines(result), *what_did_not_run(result)):
        console.print(line)
    if not result.complete:
        console.print("interrupted: fewer rounds than asked for", style="yellow")


def _print_comparison(comparison: "Comparison") -> None:
    for change in comparison.changes:
        ratio, low, high = change.ratio
        say(
            f"{change.name}: {change.old_p50:.4g} -> {change.new_p50:.4g} ms, x {ratio:.3f} ({low:.3f}..{high:.3f}): "
            f"{change.word}"
        )
    for name, where in comparison.only.items():
        say(f"{name}: only in the {where} result")
    for line in comparison.conditions:
        say(f"conditions differ: {line}")
