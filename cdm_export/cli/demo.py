"""``cdm-export demo``."""

from pathlib import Path
from typing import Annotated

import typer

from cdm_export.cli.console import print_json, progress
from cdm_export.cli.options import Json, Quiet
from cdm_export.cli.terminal import say


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the bundle and the pictures.")] = Path(
        "demo_output"
    ),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The main job on an embedded default: export, verify, refine a real frame."""
    from cdm_export.demo import run_demo
    from cdm_export.predict.frames import weights_warning

    with progress(not quiet and not as_json) as shown:
        demo = run_demo(out, shown)
    warning = weights_warning(demo.bundle.manifest)
    if as_json:
        print_json(
            {
                "bundle": str(demo.bundle.path),
                "parity": [parity.verdict.model_dump(mode="json") for parity in demo.parities],
                "choice": str(demo.choice),
                "frame": demo.refined.to_json(),
                "warning": warning,
            }
        )
    elif not quiet:
        if warning:
            say(warning)
        for parity in demo.parities:
            say(f"{parity.backend} {parity.precision}: {parity.verdict}")
        say(f"ran {demo.choice} in {demo.refined.result.timing.total:.0f} ms")
        for path in demo.refined.files:
            say(f"  {path}")
