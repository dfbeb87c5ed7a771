"""``cdm-export models``."""

from cdm_export.cli.console import print_json
from cdm_export.cli.options import Json, Quiet
from cdm_export.cli.terminal import terminal


def command(as_json: Json = False, quiet: Quiet = False) -> None:
    """Families and variants that can be exported."""
    from cdm_export.reference_model.registry import VARIANTS

    if as_json:
        print_json(
            [
                {
                    "model": variant.name,
                    "family": variant.family,
                    "summary": variant.summary,
                    "million_parameters": variant.million_parameters,
                    "weights": variant.weights,
                }
                for variant in VARIANTS.values()
            ]
        )
        return
    if quiet:
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "parameters", "what it is", "weights"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "model")
    for variant in VARIANTS.values():
        table.add_row(variant.name, f"{variant.million_parameters:.0f} M", variant.summary, variant.weights)
    terminal().print(table)
