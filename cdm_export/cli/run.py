"""``cdm-export run``."""

import sys
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
from cdm_export.runtimes.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from cdm_export.runtimes.contract import ModelContract
    from cdm_export.runtimes.metric_scale import ToMeters
    from cdm_export.runtimes.sources import FrameSource


def command(
    bundle: BundleArgument,
    *,
    source: Annotated[
        str,
        typer.Option("--input", "--rgb-image", help="Color image; or a folder, frames.json, synthetic:N, sample."),
    ],
    depth: Annotated[
        Path | None, typer.Option("--depth", "--depth-image", help="Depth image (16-bit PNG, or .npy in meters).")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", "--output", help=".npy (meters), .png (16-bit mm), or a folder for all.")
    ],
    meters: Annotated[
        str | None,
        typer.Option(
            "--meters",
            "--metres",
            metavar="NEAR:FAR|sensor",
            help="Give relative depth meters: nearest and farthest pixel are known, or scale and shift from --depth.",
        ),
    ] = None,
    colors: Annotated[
        str, typer.Option("--colors", "--colours", help="Color map: inferno, magma, plasma, viridis, turbo or gray.")
    ] = "inferno",
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    depth_scale: DepthScale = 1000.0,
    max_depth: Annotated[
        float | None, typer.Option("--max-depth", help="Meters; sensor readings beyond are missing.")
    ] = None,
    far: Annotated[float | None, typer.Option("--far", help="Meters; depth beyond is invalid.")] = None,
    fit: Fit = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad frame of a folder.")] = False,
    checkpoint: CheckpointOption = None,
    threads: Threads = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run one frame or a folder of frames: meters, 16-bit millimeters and a picture.

    Relative depth has no meters: then it is the values, their range in 16 bits, and a picture without a scale.
    """
    from cdm_export.predict.frames import check_output, refine_source, weights_warning
    from cdm_export.predict.pictures import COLORS
    from cdm_export.runtimes.bundle import Bundle
    from cdm_export.runtimes.opening import open_choice
    from cdm_export.runtimes.selection import choose

    opened = Bundle.open(bundle)
    contract = opened.manifest.contract
    choice = choose(opened, backend, precision)
    if colors not in COLORS:
        raise InputError(f"unknown color map '{colors}'. {did_you_mean(colors, list(COLORS))}")
    to_meters = _to_meters(meters, contract, max_depth, far)
    reads_depth = contract.depth_input is not None or (to_meters is not None and to_meters.needs_depth)
    if depth is not None and not reads_depth and not contract.metric:
        raise InputError(
            f"{contract.model} does not read the depth image {depth}",
            "Align to it with --meters sensor, or leave it out.",
        )
    frames = _source(source, depth, depth_scale, contract, fit, reads_depth)
    check_output(out, frames, bundle)
    warning = weights_warning(opened.manifest)
    bad: dict[str, str] = {}
    refined = []
    with progress(not quiet and not as_json) as shown:
        shown.stage(f"opening with {choice}")
        with open_choice(
            opened, choice, threads=threads, max_depth=max_depth, far=far, checkpoint=checkpoint
        ) as pipeline:
            if warning:
                shown.note(warning)
            for unpaired in frames.unpaired:
                shown.note(f"{unpaired} has no partner and is left out")
            shown.stage(f"running {len(frames)} frame(s)", len(frames))

            def on_bad(name: str, error: InputError) -> None:
                bad[name] = error.message
                shown.note(f"skipped: {error}")
                shown.step()

            single = len(frames) == 1
            for item in refine_source(
                pipeline,
                frames,
                out,
                str(choice),
                warning,
                strict=strict or single,
                on_bad=on_bad,
                to_meters=to_meters,
                colors=colors,
            ):
                refined.append(item)
                for text in item.warnings:
                    shown.note(text)
                shown.step()
            description = pipeline.describe()
    if as_json:
        print_json(
            {
                "backend": vars(description),
                "choice": str(choice),
                "parity": choice.verdict.model_dump(mode="json") if choice.verdict else None,
                "frames": [item.to_json() for item in refined],
                "skipped": bad,
            }
        )
    elif not quiet:
        print(str(choice))
        for item in refined:
            timing, health = item.result.timing, item.result.health
            print(
                f"{item.name}: {health.valid_share:.1%} valid, {timing.total:.0f} ms -> "
                + ", ".join(map(str, item.files))
                + (f" ({item.result.scaled})" if item.result.scaled else "")
            )
    if bad:
        if not as_json:
            print(f"{len(bad)} of {len(frames)} frame(s) were skipped: {', '.join(bad)}", file=sys.stderr)
        raise typer.Exit(InputError.exit_code)


def _to_meters(
    given: str | None, contract: "ModelContract", max_depth: float | None, far: float | None
) -> "ToMeters | None":
    from cdm_export.runtimes.metric_scale import KnownRange, SensorAlignment

    if given is None:
        return None
    if contract.metric:
        raise InputError(f"{contract.model} gives meters already", "Leave --meters out.")
    if given == "sensor":
        return SensorAlignment(max_depth or contract.max_depth, far or contract.far)
    try:
        near, farthest = map(float, given.split(":"))
    except ValueError:
        raise InputError(
            f"--meters wants NEAR:FAR in meters, or sensor; got '{given}'", "For example --meters 0.5:10."
        ) from None
    return KnownRange(near, farthest)


def _source(
    source: str, depth: Path | None, depth_scale: float, contract: "ModelContract", fit: bool, reads_depth: bool
) -> "FrameSource":
    from cdm_export.runtimes.contract import Size
    from cdm_export.runtimes.sources import open_source
    from cdm_export.runtimes.sources.single import SingleSource

    camera = Size(*contract.camera)
    if depth is not None or (Path(source).is_file() and Path(source).suffix.lower() != ".json"):
        if depth is None and reads_depth:
            why = "refines sensor depth" if contract.depth_input else "is to be aligned to sensor depth"
            raise InputError(f"{contract.model} {why}: {source} has no depth image", "Give it with --depth DEPTH.")
        return SingleSource.open(Path(source), depth, depth_scale, camera, fit)
    return open_source(source, depth_scale=depth_scale, camera=camera, fit=fit, needs_depth=reads_depth)
