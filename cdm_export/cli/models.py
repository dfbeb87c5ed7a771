"""``cdm-export models``."""

import itertools
import sys

from cdm_export.cli.console import print_json
from cdm_export.cli.options import Json, Quiet
from cdm_export.cli.terminal import print_table, say


def command(as_json: Json = False, quiet: Quiet = False) -> None:
    """Families and variants that can be exported."""
    from cdm_export.reference_model.registry import all_variants, package_of, third_party

    known = all_variants().values()
    for problem in third_party().problems:
        say(f"warning: {problem}", error=True)

    if as_json:
        print_json(
            [
                {
                    "model": variant.name,
                    "family": variant.family,
                    "summary": variant.summary,
                    "million_parameters": variant.million_parameters,
                    "weights": variant.weights,
                    "package": package_of(variant.name) or "cdm-export",
                }
                for variant in known
            ]
        )
        return
    if quiet:
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("what it is", overflow="fold")
    between = "\n" if sys.stdout.isatty() else "; "
    for family, variants in itertools.groupby(known, lambda variant: variant.family):
        table.add_row(Text(family, "bold"))
        for variant in variants:
            of = f", of {package}" if (package := package_of(variant.name)) else ""
            described = f"{variant.summary}{of}{between}weights: {variant.weights}"
            table.add_row(f"  {variant.name}", f"{variant.million_parameters:.0f} M", described)
    print_table(table)
