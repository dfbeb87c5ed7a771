"""``cdm-export export``."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from cdm_export.cli.console import print_json, progress
from cdm_export.cli.options import DepthScale, Fit, Json, Quiet, given_scale, run_inputs
from cdm_export.cli.terminal import say
from cdm_export.runtimes.checkpoint_path import with_key
from cdm_export.runtimes.contract import COMPRESSED, QUANTIZED, Precision, Size
from cdm_export.runtimes.coreml_target import NEWEST, get_target
from cdm_export.runtimes.errors import InputError, ParityError
from cdm_export.runtimes.graph_precision import LowPrecision

if TYPE_CHECKING:
    from cdm_export.coreml.exporter import CoremlRequest
    from cdm_export.parity.check_backend import BackendParity
    from cdm_export.quantize.exporter import Int8Request
    from cdm_export.runtimes.bundle import Bundle


class ChannelOrderChoice(str, Enum):
    """Plane order the weights are run with."""

    bgr = "bgr"
    rgb = "rgb"


def command(
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="CHECKPOINT", help=".pt, .pth, .ckpt or .safetensors")
    ] = None,
    *,
    context: typer.Context,
    camera: Annotated[str, typer.Option("--camera", help="Size of the camera's frames, e.g. 640x480.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Bundle to make, e.g. d435.bundle.")],
    model: Annotated[
        str | None, typer.Option("--model", help="See cdm-export models; read off the checkpoint where that can be.")
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option("--weights-key", metavar="KEY", help="Of a checkpoint with several sets of weights, e.g. ema."),
    ] = None,
    random_weights: Annotated[
        int | None,
        typer.Option("--random-weights", metavar="SEED", min=0, max=2**63 - 1, help="Seeded weights, no checkpoint."),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option("--input-size", help="Pixels that the network's size follows from; the model's own by default."),
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option("--preprocessing", metavar="PROGRAM", help="Of MiDaS: midas (its own, default) or muggled."),
    ] = None,
    aspect: Annotated[
        bool, typer.Option("--aspect", help="With --preprocessing muggled: the camera's aspect, not a square.")
    ] = False,
    target: Annotated[str, typer.Option("--target", help="Comma-separated: onnx (always made), coreml.")] = "onnx",
    coreml_target: Annotated[
        str, typer.Option("--coreml-target", help="Oldest system for Core ML: macos13, macos14, macos15 (iOS 16-18).")
    ] = NEWEST,
    coreml_input: Annotated[
        str,
        typer.Option("--coreml-input", help="Comma-separated: array (always made), image (fp16 beside it, for apps)."),
    ] = "array",
    coreml_weights: Annotated[
        str | None,
        typer.Option(
            "--coreml-weights", help="Smaller fp16 packages too: w8, p8, p6, p4 (bits of weights), w8a8 (of int8)."
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option("--precision", help="Comma-separated: fp32 (always made), fp16, bf16 (OpenVINO, TensorRT), int8."),
    ] = "fp32,fp16",
    calibration: Annotated[
        str | None,
        typer.Option("--calibration", help="Frames that int8 takes its ranges from: folder, frames.json, synthetic:N."),
    ] = None,
    keep_slower: Annotated[
        bool, typer.Option("--keep-slower", help="Keep int8 for CPUs, marked, although it is not faster here.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", min=2, max=4096, help="FP32 and FP16 graphs for N frames at once too."),
    ] = None,
    frames: Annotated[
        str, typer.Option("--frames", help="Frames to verify on: folder, frames.json, synthetic:N[:SEED] or sample.")
    ] = "sample",
    depth_scale: DepthScale = 1000.0,
    fit: Fit = False,
    channel_order: Annotated[
        ChannelOrderChoice | None,
        typer.Option("--channel-order", help="Of CDM: bgr as the reference runs its weights, rgb without its swap."),
    ] = None,
    max_depth: Annotated[
        float | None, typer.Option("--max-depth", help="Meters; sensor readings beyond are missing; 6 by default.")
    ] = None,
    far: Annotated[
        float | None, typer.Option("--far", help="Meters; depth beyond is invalid; 25, or all the model was made for.")
    ] = None,
    head_range: Annotated[
        float | None,
        typer.Option("--head-range", metavar="METERS", help="Range that a metric Depth Anything was fine-tuned for."),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", metavar="N", help="Of recurrent stereo models; the original's by default."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle, atomically.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Checkpoint -> verified bundle.

    Nothing is published unless FP32 passes its gate on every backend; a reduced
    precision that misses its own is marked failed, never run, and the exit code is 1.
    """
    targets = _chosen("--target", target, ("onnx", "coreml"))
    precisions = _chosen("--precision", precision, ("fp32", *get_args(LowPrecision), "int8"))
    size = Size.parse(camera)
    from cdm_export.export.bundle import export_bundle
    from cdm_export.export.parity_report import failures
    from cdm_export.export.request import ExportRequest

    request = ExportRequest(
        out=out,
        camera=size,
        checkpoint=_weights(checkpoint, weights_key),
        random_weights=random_weights,
        model=model,
        frames=frames,
        depth_scale=given_scale(context, depth_scale),
        fit=fit,
        input_size=input_size,
        preprocessing=preprocessing,
        aspect=aspect,
        channel_order=channel_order.value if channel_order else None,
        max_depth=max_depth,
        far=far,
        head_range=head_range,
        iterations=iterations,
        low_precisions=tuple(name for name in get_args(LowPrecision) if name in precisions),
        batch=batch or 1,
        overwrite=overwrite,
        coreml=_coreml(targets, coreml_target, coreml_input, coreml_weights),
        int8=_int8(precisions, calibration, keep_slower),
    )
    with progress(not quiet) as shown:
        bundle, parities = export_bundle(request, shown)
    if as_json:
        print_json(_summary(bundle, parities))
    elif not quiet:
        for parity in parities:
            say(f"{parity.name}: {parity.verdict}")
        for dropped in bundle.manifest.dropped:
            say(f"not published: {dropped.name}: {dropped.reason}")
        for artifact in bundle.manifest.artifacts:
            if artifact.interface is not None:
                say(f"{artifact.name}: its 8-bit image alone moves the depth: {artifact.interface.loss}")
        say(f"published {bundle.path}")
        say(f"next: cdm-export run {bundle.path} {run_inputs(bundle.manifest.contract)} -o depth.npy")
    if missed := [dropped for dropped in bundle.manifest.dropped if dropped.failed]:
        raise ParityError(
            f"published without {missed[0].name}: {missed[0].reason}",
            "The others passed. Calibrate on frames like those it will see, or leave int8 out of --precision.",
        )
    if failed := failures(parities):
        first = next(parity for parity in parities if not parity.verdict.passed)
        where = f"cdm-export verify {bundle.path} --bisect --backend {first.backend} --precision {first.precision}"
        raise ParityError(
            f"published, but what failed will not run: {'; '.join(failed)}",
            f"Where the error begins: {where}" if first.batch == 1 else "Run it one frame at a time, which passed.",
        )


def _weights(checkpoint: Path | None, key: str | None) -> Path | None:
    """The checkpoint, with the key of the weights in it that were asked for."""
    if not key:
        return checkpoint
    if checkpoint is None:
        raise InputError("--weights-key chooses among the weights of a checkpoint, and none is given", "Leave it out.")
    return with_key(checkpoint, key)


def _int8(precisions: list[str], calibration: str | None, keep_slower: bool) -> "Int8Request | None":
    from cdm_export.quantize.exporter import Int8Request

    if "int8" not in precisions:
        if calibration is not None or keep_slower:
            raise InputError("--calibration and --keep-slower belong to int8", "Add --precision fp32,fp16,int8.")
        return None
    if calibration is None:
        raise InputError(
            "int8 takes its ranges from frames, and --calibration names none",
            "Give frames of the robot's own camera: --calibration FOLDER (32 or more; synthetic:32 to try it out).",
        )
    return Int8Request(calibration, keep_slower)


def _coreml(targets: list[str], target: str, fed: str, weights: str | None) -> "CoremlRequest | None":
    from cdm_export.coreml.exporter import CoremlRequest

    system = get_target(target)
    names = [] if weights is None else _chosen("--coreml-weights", weights, tuple(_SUFFIXES))
    image = "image" in _chosen("--coreml-input", fed, ("array", "image"))
    if "coreml" not in targets:
        for option, given in (("--coreml-weights", weights is not None), ("--coreml-input", image)):
            if given:
                raise InputError(f"{option} belongs to --target coreml", "Add --target onnx,coreml.")
        return None
    return CoremlRequest(system.name, tuple(_SUFFIXES[name] for name in names), image=image)


_SUFFIXES: dict[str, Precision] = {name.removeprefix("fp16-"): name for name in (*COMPRESSED, QUANTIZED)}


def _chosen(option: str, given: str, supported: tuple[str, ...]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    unknown = [name for name in names if name not in supported]
    if unknown:
        raise InputError(
            f"{option}: '{unknown[0]}' cannot be exported by this version; it exports {', '.join(supported)}"
        )
    return names


def _summary(bundle: "Bundle", parities: "list[BackendParity]") -> dict[str, object]:
    return {
        "bundle": str(bundle.path),
        "model": bundle.manifest.contract.model,
        "network": str(Size(*bundle.manifest.contract.network)),
        "dropped": [dropped.model_dump(mode="json") for dropped in bundle.manifest.dropped],
        "input_loss": {
            artifact.name: artifact.interface.loss.model_dump(mode="json")
            for artifact in bundle.manifest.artifacts
            if artifact.interface is not None and artifact.interface.loss is not None
        },
        "parity": [parity.verdict.model_dump(mode="json") for parity in parities],
    }
