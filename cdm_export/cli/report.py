"""``cdm-export report``."""

from pathlib import Path
from typing import Annotated

import typer

from cdm_export.cli.console import print_json
from cdm_export.cli.options import BundleArgument, Json, Quiet
from cdm_export.cli.terminal import say


def command(
    bundle: BundleArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; NAME.html by default.")] = None,
    bench: Annotated[
        Path | None, typer.Option("--bench", help="Result of cdm-export bench; the newest of this machine by default.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside", help="Bundle of the same weights and camera at another --input-size; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One self-contained HTML page: latency, parity, trade-offs, artifacts, pictures, environment."""
    from cdm_export.report import ReportRequest, write_page

    target = out or Path(f"{bundle.resolve().stem}.html")
    written = write_page(ReportRequest(bundle, target, bench, tuple(beside or ())))
    if as_json:
        print_json({"report": str(written)})
    elif not quiet:
        say(f"written: {written}")
