"""``cdm-export verify``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdm_export.cli.console import print_json, progress
from cdm_export.cli.options import (
    BackendName,
    BundleArgument,
    CheckpointOption,
    DepthScale,
    Fit,
    Json,
    PrecisionName,
    Quiet,
    Threads,
)
from cdm_export.cli.terminal import say, terminal
from cdm_export.runtimes.errors import InputError

if TYPE_CHECKING:
    from cdm_export.parity.request import VerifyRequest


def command(
    bundle: BundleArgument,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    frames: Annotated[
        str | None, typer.Option("--frames", help="Other frames than the golden ones: folder, frames.json, ...")
    ] = None,
    depth_scale: DepthScale = 1000.0,
    fit: Fit = False,
    checkpoint: CheckpointOption = None,
    threads: Threads = 0,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Instead of the gate: where in the network does the error begin?")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="BACKEND:PRECISION", help="What --bisect compares with, e.g. torch:fp16."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Parity gate on every backend that can run here; exit code 1 when one fails."""
    from cdm_export.parity.request import VerifyRequest
    from cdm_export.parity.verify import verify_bundle

    request = VerifyRequest(bundle, backend, frames, depth_scale, fit, checkpoint, threads, precision)
    if bisect:
        _bisect(request, against, as_json, quiet)
        return
    if against is not None:
        raise InputError("--against belongs to --bisect", "Add --bisect, or leave --against out.")
    with progress(not quiet and not as_json) as shown:
        verification = verify_bundle(request, shown)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "passed": verification.passed,
                "reference": verification.reference,
                "parity": [parity.model_dump(mode="json") for parity in verification.parities],
                "skipped": verification.skipped,
                "crashed": verification.crashed,
                "warnings": verification.warnings,
            }
        )
    elif not quiet:
        say(f"compared with: {verification.reference}")
        for parity in verification.parities:
            at_once = f" for {parity.batch} frames" if parity.batch > 1 else ""
            latency = f"; {parity.latency.p50:.0f} ms{at_once}" if parity.latency else ""
            optional = "" if (parity.backend, parity.label) in verification.required else "; optional"
            say(f"{parity.name}: {parity.verdict}{latency}{optional}")
        for name, why in verification.skipped.items():
            say(f"{name}: not run ({why})")
        for why in verification.crashed.values():
            say(f"failed: {why}")
    if not verification.passed:
        raise typer.Exit(1)


_WIDTH = 120
"""Of tables that go to a file or a pipe."""


def _bisect(request: "VerifyRequest", against: str | None, as_json: bool, quiet: bool) -> None:
    """Growth of the error along the network on the first frame: table, sentence, picture; exit code 1 when outside."""
    from cdm_export.bisect import bisect_bundle, write_report
    from cdm_export.bisect.request import bisect_pairs, first_frame
    from cdm_export.runtimes.bundle import Bundle
    from cdm_export.runtimes.cache import cache_dir
    from cdm_export.runtimes.temporary import TemporaryFolder

    opened = Bundle.open(request.bundle)
    candidate, reference = bisect_pairs(opened, request, against)
    with TemporaryFolder() as folder, progress(not quiet and not as_json) as shown, opened.steady():
        frame = first_frame(opened, candidate, request, Path(folder), shown)
        report = bisect_bundle(
            opened, candidate, reference, frame, shown, checkpoint=request.checkpoint, threads=request.threads
        )
    written = write_report(report, cache_dir() / opened.identity)
    if as_json:
        print_json({**report.model_dump(mode="json"), "files": [str(path) for path in written]})
    elif not quiet:
        console = terminal()
        console.print(report.table(), width=None if console.is_terminal else _WIDTH)
        say(report.summary)
        for path in written:
            say(f"  {path}")
    if not report.passed:
        raise typer.Exit(1)
