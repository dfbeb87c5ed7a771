"""INT8 of one model at 640x480: error per observer and smoothing, sizes, speed -> ``results/int8-MODEL.json``.

``python -m benchmarks.int8 MODEL [--calibration SRC] [--frames SRC]``. A model whose weights do not ship gets seeded
ones with planted outlier channels: a few channels of every LayerNorm and of V 64 times as large, and what reads them
a 64th, which changes no bit of any product. Trained DINOv2 encoders have such channels by themselves.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.memory import run_sampled
from benchmarks.seeded_checkpoint import save_seeded
from cdm_export.bench.environment import environment
from cdm_export.runtimes.contract import Size

RESULTS = Path(__file__).parent / "results"
_OUTLIERS = 3
_LARGER = 64.0


def main(
    model: Annotated[str, typer.Argument(help="Registry name.")],
    calibration: Annotated[str, typer.Option(help="Frames that ranges are taken from.")] = "synthetic:8",
    frames: Annotated[str, typer.Option(help="Frames to verify on.")] = "sample",
    camera: Annotated[str, typer.Option(help="Camera size.")] = "640x480",
    precision: Annotated[str, typer.Option(help="Graphs to make.")] = "fp32,int8",
) -> None:
    """Export with the search, keep the table."""
    from cdm_export.reference_model.weights import bundled_checkpoint

    trained = bundled_checkpoint(model) is not None
    with tempfile.TemporaryDirectory() as folder:
        out, checkpoint = Path(folder) / "measured.bundle", Path(folder) / "planted.pt"
        if not trained:
            save_seeded(model, Size.parse(camera), str(checkpoint))
            plant_outliers(checkpoint)
        command = [sys.executable, "-m", "cdm_export", "export", *([] if trained else [str(checkpoint)])]
        command += ["--model", model, "--camera", camera, "--fit", "--precision", precision, "--keep-slower"]
        command += ["--calibration", calibration, "--frames", frames, "-o", str(out)]
        run = run_sampled(command)
        if run.exit_code:
            raise typer.Exit(run.exit_code)
        manifest = json.loads((out / "manifest.json").read_text())
        table = json.loads((out / "reports" / "int8.json").read_text())
    sizes = {one["precision"]: sum(file["size"] for file in one["files"]) / 1e6 for one in manifest["artefacts"]}
    quantization = table["quantisation"]
    result: dict[str, Any] = {
        "what": f"INT8 of {model} at {camera}",
        "verified_on": f"{table['parity'][0]['frames']} {_kind(frames)} frame(s)",
        "weights": "trained, ships with the package" if trained else "seeded, with planted outlier channels",
        "network": manifest["contract"]["network"],
        "calibration": f"{len(quantization['calibration']['frames'])} {_kind(calibration)} frame(s)",
        "megabytes": {name: round(size, 1) for name, size in sizes.items()},
        "kept_megabytes": quantization["kept_megabytes"],
        "chosen": f"{'smoothed' if quantization['smoothed'] else 'plain'} {quantization['observer']}",
        "kept": quantization["kept"],
        "products": len(quantization["steps"]),
        "trials": quantization["trials"],
        "sensitivity": dict(list(quantization["sensitivity"].items())[:12]),
        "parity": table["parity"],
        "speed": quantization["speed"],
        "seconds": round(run.seconds, 1),
        "environment": environment(),
    }
    (RESULTS / f"int8-{model}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(int8())


def _kind(source: str) -> str:
    return "rendered" if source.startswith("synthetic") else "real"


def plant_outliers(checkpoint: Path) -> None:
    """Rewrite a seeded checkpoint in place; the function it computes stays what it is, bit by bit."""
    state = torch.load(checkpoint, weights_only=True)
    weights, generator = state["model"], torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(".norm1.weight")]:
        block = name.removesuffix(".norm1.weight")
        width = len(weights[name])
        for reader, scaled in (
            ("attn.qkv", [f"{block}.norm1.weight", f"{block}.norm1.bias"]),
            ("mlp.fc1", [f"{block}.norm2.weight", f"{block}.norm2.bias"]),
        ):
            channels = torch.randperm(width, generator=generator)[:_OUTLIERS]
            weights[f"{block}.{reader}.weight"][:, channels] /= _LARGER
            for vector in scaled:
                weights[vector][channels] *= _LARGER
        channels = torch.randperm(width, generator=generator)[:_OUTLIERS]
        weights[f"{block}.attn.qkv.weight"][2 * width + channels] *= _LARGER
        weights[f"{block}.attn.qkv.bias"][2 * width + channels] *= _LARGER
        weights[f"{block}.attn.proj.weight"][:, channels] /= _LARGER
    torch.save(state, checkpoint)


def int8() -> str:
    """The tables: error of everything quantized, then what was published of it."""
    results = {
        path.stem.removeprefix("int8-"): json.loads(path.read_text()) for path in sorted(RESULTS.glob("int8-*.json"))
    }
    observers = ["abs-max", "percentile", "mse"]
    rows = [f"| everything quantized, mean error | {' | '.join(observers)} |", "|---" * (len(observers) + 1) + "|"]
    for model, result in results.items():
        for form in ("plain", "smoothed"):
            errors = [result["trials"][f"{form} {observer}"]["mean"] for observer in observers]
            named = {"plain": "as it is", "smoothed": "smoothed"}[form]
            rows.append(f"| {model}, {result['weights']}, {named} | {' | '.join(map(_figure, errors))} |")
    rows += [
        "",
        "| after the search | products | not INT8 | size of fp32 | mean | p99 | gate | INT8 / fastest other |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, result in results.items():
        sizes, speed = result["megabytes"], result["speed"]
        for parity in result["parity"]:
            name = parity["precision"]
            raced = speed and speed["int8"] == f"{parity['backend']} {name}"
            cells = [
                f"{model}, {parity['backend']} {name}",
                str(result["products"]),
                f"{len(result['kept'])} parts",
                f"{sizes[name] / sizes['fp32']:.2f}",
                _figure(parity["mean"]),
                _figure(parity["p99"]),
                parity["verdict"],
                f"{speed['ratio']:.2f} ({speed['other']})" if raced else "",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    rows.append("")
    for model, result in results.items():
        machine = result["environment"]
        rows.append(
            f"{model}: ranges from {result['calibration']}, verified on {result['verified_on']}, on "
            f"{machine['usable_cpus']} cores of {machine['cpu']} ({', '.join(machine['cpu_features'])})."
        )
    return "\n".join(rows)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.1e}"


if __name__ == "__main__":
    typer.run(main)
