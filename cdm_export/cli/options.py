"""Options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated

import typer

from cdm_export.runtimes.contract import ModelContract

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle made by cdm-export export.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Fit = Annotated[bool, typer.Option("--fit", help="Crop and resize frames of another size to the bundle's.")]


def _depth_scale(given: float) -> float:
    """Checked also where no frame of this command has integers to divide by it."""
    from cdm_export.runtimes.sources.images import require_scale

    require_scale(given)
    return given


DepthScale = Annotated[
    float,
    typer.Option("--depth-scale", callback=_depth_scale, help="Sensor units per meter; 1000 for millimeters."),
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Compute threads; 0 for all usable CPUs.")]
BackendName = Annotated[str, typer.Option("--backend", help="See cdm-export doctor; or auto.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="fp32, tf32, fp16, fp16-attn32, bf16, or auto.")]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", help="Checkpoint the bundle was made from, for the PyTorch reference.")
]


def run_inputs(contract: ModelContract) -> str:
    """What ``run`` is to be given, for the next command to type."""
    if contract.reads("right"):
        return "--left LEFT --right RIGHT"
    return "--input RGB --depth DEPTH" if contract.reads("depth") else "--input RGB"


def given_scale(context: typer.Context, depth_scale: float) -> float | None:
    """The depth scale, or None when nobody gave one and it is the default."""
    source = context.get_parameter_source("depth_scale")
    return None if source is None or source.name.startswith("DEFAULT") else depth_scale
