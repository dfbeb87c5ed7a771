"""``cdm-export doctor``."""

import sys

from cdm_export.cli.console import print_json
from cdm_export.cli.options import Json, Quiet
from cdm_export.cli.terminal import print_table

_MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]not here[/]", "problem": "[bold red]problem[/]"}


def command(as_json: Json = False, quiet: Quiet = False) -> None:
    """What this machine can build and run, and the exact command that adds the rest."""
    from cdm_export.doctor.machine import examine

    results = examine()
    if as_json:
        print_json([vars(finding) for finding in results])
        return
    if quiet:
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    between = "\n" if sys.stdout.isatty() else "  "  # in a pipe, one line per finding
    for finding in results:
        detail = escape(finding.detail) + (f"{between}[cyan]{escape(finding.command)}[/]" if finding.command else "")
        table.add_row(finding.subject, _MARKS[finding.status], detail)
    print_table(table, markup=True)
