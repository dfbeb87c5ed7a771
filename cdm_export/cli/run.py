"""``cdm-export run``."""

import math
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
    given_scale,
)
from cdm_export.cli.terminal import say
from cdm_export.runtimes.errors import InputError, did_you_mean
from cdm_export.runtimes.replaced import once_more_when_replaced

if TYPE_CHECKING:
    from cdm_export.predict.frames import Refined
    from cdm_export.runtimes.contract import ModelContract
    from cdm_export.runtimes.metric_scale import ToMeters
    from cdm_export.runtimes.sources import FrameSource, Reading

_WARNED_OF = 3
"""Frames whose depth looks wrong that are named one by one."""


@once_more_when_replaced
def command(
    context: typer.Context,
    bundle: BundleArgument,
    *,
    source: Annotated[
        str,
        typer.Option(
            "--input",
            "--left",
            "--rgb-image",
            help="Color or left image; or a folder, frames.json, synthetic:N, sample.",
        ),
    ],
    depth: Annotated[
        Path | None, typer.Option("--depth", "--depth-image", help="Depth image (16-bit PNG, or .npy in meters).")
    ] = None,
    right: Annotated[Path | None, typer.Option("--right", help="Right image, for stereo models.")] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Every image is a pair: left half, right half.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option("--calib", "--calibration", help="Of a stereo pair, for meters: docs/calibration.md has formats."),
    ] = None,
    scale_calibration: Annotated[
        bool, typer.Option("--scale-calibration", help="Use a calibration for another image size, scaled.")
    ] = False,
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
    color_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="NEAR:FAR",
            help="Meters at the ends of the picture's colors, the same for every frame; else those of the frame.",
        ),
    ] = None,
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
    from cdm_export.predict.frames import check_frame, check_output, refine_source, weights_warning
    from cdm_export.predict.pictures import COLORS
    from cdm_export.predict.unused_options import check_depth_scale, check_far, check_max_depth, check_pair
    from cdm_export.runtimes.arguments import check_meters
    from cdm_export.runtimes.bundle import Bundle
    from cdm_export.runtimes.opening import check_reader, open_choice
    from cdm_export.runtimes.selection import choose
    from cdm_export.runtimes.sources import Reading

    opened = Bundle.open(bundle)
    contract = opened.manifest.contract
    choice = choose(opened, backend, precision)
    check_reader(choice.backend, checkpoint)
    for option, value in (("--max-depth", max_depth), ("--far", far)):
        if value is not None:
            check_meters(option.removeprefix("--").replace("-", "_"), value)
    if colors not in COLORS:
        raise InputError(f"unknown color map '{colors}'. {did_you_mean(colors, list(COLORS))}")
    limits = _limits(color_range)
    pairs = contract.reads("right")
    check_pair(contract, pairs, right=right, calibration=calibration, scale_calibration=scale_calibration)
    to_meters = _to_meters(meters, contract, max_depth, far)
    reads_depth = contract.reads("depth") or (to_meters is not None and to_meters.needs_depth)
    if depth is not None and not reads_depth and not contract.metric:
        raise InputError(
            f"{contract.model} does not read the depth image {depth}",
            "Align to it with --meters sensor, or leave it out.",
        )
    check_max_depth(contract, max_depth, reads_depth)
    check_far(contract, far, scaled_by_sensor=to_meters is not None and to_meters.needs_depth)
    compared = contract.metric and (depth is not None or not _one_file(source))
    check_depth_scale(contract, given_scale(context, depth_scale), reads_depth or compared)
    reading = Reading(depth_scale, reads_depth, pairs, side_by_side, scale_calibration)
    frames = _source(source, depth, right, calibration, reading, contract, fit)
    check_output(out, frames, bundle)
    if frames.files and (strict or len(frames) == 1):
        limit = contract.max_depth if max_depth is None else max_depth
        check_frame(frames.load(0), contract.model_copy(update={"max_depth": limit}), to_meters)
    warning = weights_warning(opened.manifest)
    bad: dict[str, str] = {}
    refined = []
    doubted = 0
    stopped = False
    with progress(not quiet and not as_json) as shown:
        shown.stage(f"opening with {choice}")
        with open_choice(
            opened, choice, threads=threads, max_depth=max_depth, far=far, checkpoint=checkpoint
        ) as pipeline:
            if warning:
                shown.note(warning)
            for unpaired in frames.unpaired:
                shown.note(f"{unpaired} has no partner and is left out")
            for left_out in frames.left_out:
                shown.note(left_out)
            shown.stage(f"running {len(frames)} frame(s)", len(frames))

            said: set[str] = set()

            def on_bad(name: str, error: InputError) -> None:
                bad[name] = error.message
                shown.note(f"skipped: {error}")
                shown.step()

            single = len(frames) == 1
            if not as_json and not quiet:
                say(str(choice))
            try:
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
                    limits=limits,
                ):
                    refined.append(item)
                    for text in item.warnings if doubted < _WARNED_OF else ():
                        shown.warn(text)
                    doubted += bool(item.warnings)
                    for text in (*item.remarks, *item.notes):
                        if text not in said:
                            shown.note(text)
                        said.add(text)
                    if not as_json and not quiet:
                        say(_line(item, reads_depth))
                    shown.step()
            except KeyboardInterrupt:
                if single:
                    raise
                stopped = True
            if doubted > _WARNED_OF:
                shown.warn(
                    f"{doubted} of {len(frames)} frames have depth that looks wrong, the first {_WARNED_OF} above"
                )
            description = pipeline.describe()
    if as_json:
        print_json(
            {
                "backend": vars(description),
                "choice": str(choice),
                "parity": choice.verdict.model_dump(mode="json") if choice.verdict else None,
                "frames": [item.to_json() for item in refined],
                "skipped": bad,
                "complete": not stopped,
            }
        )
    if stopped:
        if not as_json:
            done = len(refined) + len(bad)
            say(f"stopped after {done} of {len(frames)} frames; the results of {len(refined)} are written", error=True)
        raise typer.Exit(130)
    if bad:
        if not as_json:
            say(f"{len(bad)} of {len(frames)} frame(s) were skipped: {', '.join(bad)}", error=True)
        raise typer.Exit(InputError.exit_code)


def _line(item: "Refined", reads_depth: bool) -> str:
    """What a person reads of a frame that is done."""
    timing, health = item.result.timing, item.result.health
    return (
        f"{item.name}: {health.valid_share:.1%} valid, "
        + (f"{health.sensor_share or 0:.1%} with sensor depth, " if reads_depth else "")
        + f"{timing.total:.0f} ms -> "
        + ", ".join(map(str, item.files))
        + (f" ({item.result.scaled})" if item.result.scaled else "")
    )


def _one_file(source: str) -> bool:
    """Whether it is an image, as opposed to a source of several frames."""
    return Path(source).is_file() and Path(source).suffix.lower() != ".json"


def _limits(given: str | None) -> tuple[float, float] | None:
    """Ends of the color range. Raises InputError unless they are two numbers, the smaller one first."""
    if given is None:
        return None
    try:
        near, far = map(float, given.split(":"))
    except ValueError:
        raise InputError(f"--range wants NEAR:FAR, got '{given}'", "For example --range 0.3:6.") from None
    if not (math.isfinite(near) and math.isfinite(far) and 0 <= near < far):
        raise InputError(f"--range {given}: expected 0 <= NEAR < FAR", "For example --range 0.3:6.")
    return near, far


def _to_meters(
    given: str | None, contract: "ModelContract", max_depth: float | None, far: float | None
) -> "ToMeters | None":
    from cdm_export.runtimes.contract import Semantics
    from cdm_export.runtimes.metric_scale import CalibratedPair, KnownRange, SensorAlignment

    if given is None:
        return CalibratedPair() if contract.semantics is Semantics.DISPARITY else None
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
    source: str,
    depth: Path | None,
    right: Path | None,
    calibration: Path | None,
    reading: "Reading",
    contract: "ModelContract",
    fit: bool,
) -> "FrameSource":
    from cdm_export.runtimes.contract import Size
    from cdm_export.runtimes.sources import FrameFiles, open_source
    from cdm_export.runtimes.sources.single import SingleSource

    camera = Size(*contract.camera)
    if depth is not None or right is not None or _one_file(source):
        if depth is None and reading.needs_depth:
            why = "refines sensor depth" if contract.reads("depth") else "is to be aligned to sensor depth"
            raise InputError(f"{contract.model} {why}: {source} has no depth image", "Give it with --depth DEPTH.")
        if reading.needs_right and right is None and not reading.side_by_side:
            raise InputError(
                f"{contract.model} reads a pair of images: {source} has no right image",
                "Give it with --right FILE; if the image is both, side by side, add --side-by-side.",
            )
        given = None if calibration is None else (calibration,)
        return SingleSource.open(FrameFiles(Path(source), depth, right, given), reading, camera, fit)
    return open_source(
        source,
        depth_scale=reading.depth_scale,
        camera=camera,
        fit=fit,
        needs_depth=reading.needs_depth,
        needs_right=reading.needs_right,
        side_by_side=reading.side_by_side,
        calibration=calibration,
        scale_calibration=reading.scale_calibration,
    )
