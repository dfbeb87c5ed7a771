"""``cdm-export build``."""

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdm_export.cli.console import print_json, progress
from cdm_export.cli.options import BundleArgument, Json, Quiet, run_inputs
from cdm_export.cli.terminal import say

if TYPE_CHECKING:
    from cdm_export.tensorrt.build import BuildReport


class Target(str, Enum):
    """Library the engine is for."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


class Fallback(str, Enum):
    """What happens when the engine fails."""

    auto = "auto"
    none = "none"


def command(
    bundle: BundleArgument,
    target: Annotated[Target, typer.Option("--target", help="Which library the engine is for.")],
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="auto (fp16, else its fallbacks; int8-fp16 where it is faster), fp32, tf32, fp16, fp16-attn32, "
            "bf16 or int8-fp16.",
        ),
    ] = "auto",
    fallback: Annotated[
        Fallback | None,
        typer.Option(
            "--fallback",
            "--remedy",
            help="auto: try the next precision when one fails; the default of --precision auto.",
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option("--workspace", min=64, max=2**20, help="Most scratch memory in MiB; 1024 where memory is shared."),
    ] = None,
    optimization_level: Annotated[
        int,
        typer.Option(
            "--optimization-level", "--optimisation-level", min=0, max=5, help="How long to look for faster kernels."
        ),
    ] = 3,
    force: Annotated[bool, typer.Option("--force", help="Build although there is a usable engine.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Engine for this device, tested on the golden frames; for RTX on any machine, also without a GPU."""
    from cdm_export.tensorrt.build import BuildRequest, build_bundle

    fallbacks = fallback is Fallback.auto if fallback is not None else precision == "auto"
    request = BuildRequest(bundle, target.value, precision, fallbacks, workspace, optimization_level, force)
    with progress(not quiet and not as_json) as shown:
        report = build_bundle(request, shown)
    if as_json:
        print_json(_summary(report))
        return
    if quiet:
        return
    from cdm_export.runtimes.bundle import Bundle
    from cdm_export.tensorrt.describe import layer_report_lines

    for outcome in report.outcomes:
        say(f"{outcome.attempt}: {outcome.outcome} ({outcome.detail})")
    record = report.engine.record
    for line in layer_report_lines(record):
        say(f"  {line}")
    say(f"engine: {report.engine.path}")
    if record.self_test is None:
        say(f"next, on the device: cdm-export verify {bundle} --backend {target.value}")
    else:
        contract = Bundle.open(bundle).manifest.contract
        say(f"next: cdm-export run {bundle} --backend {target.value} {run_inputs(contract)} -o depth.npy")


def _summary(report: "BuildReport") -> dict[str, Any]:
    return {
        "engine": str(report.engine.path),
        "record": report.engine.record.model_dump(mode="json"),
        "attempts": [vars(outcome) for outcome in report.outcomes],
        "parity": report.parity.model_dump(mode="json") if report.parity else None,
    }
