"""Core ML packages of one model: size, error, time and memory of making them, seconds to interpret one frame.

``python -m benchmarks.coreml_packages MODEL [--weights w8,p8,p6,p4]`` exports at 640x480 on the real sample frame and
writes ``results/coreml_packages-MODEL.json``. Models whose weights do not ship are seeded.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.memory import run_sampled
from cdm_export.bench.environment import environment

RESULTS = Path(__file__).parent / "results"


def main(
    model: Annotated[str, typer.Argument(help="Registry name.")],
    camera: Annotated[str, typer.Option(help="Camera size.")] = "640x480",
    input_size: Annotated[int | None, typer.Option(help="Lower bound of the network's sides.")] = None,
    weights: Annotated[str | None, typer.Option(help="Compressed packages to make too.")] = None,
) -> None:
    """Export, sample memory, interpret once more with a clock."""
    from cdm_export.reference_model.registry import get_variant
    from cdm_export.reference_model.weights import bundled_checkpoint

    trained = bundled_checkpoint(model) is not None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.bundle"
        command = [sys.executable, "-m", "cdm_export", "export", "--model", model, "--camera", camera, "--fit"]
        command += [] if trained else ["--random-weights", "1"]
        command += ["--target", "onnx,coreml", "--coreml-input", "image", "-o", str(out)]
        command += ["--coreml-weights", weights] if weights else []
        command += ["--input-size", str(input_size)] if input_size else []
        run = run_sampled(command)
        if not out.exists():  # a package that missed its gate makes it 1, and is told below
            raise typer.Exit(run.exit_code)
        contract = json.loads((out / "manifest.json").read_text())["contract"]
        packages = json.loads((out / "reports" / "coreml.json").read_text())["packages"]
        seconds = {precision: _interpreted(out, precision) for precision in ("fp32", "fp16")}
    result = {
        "what": f"verified export of {model} at {camera}, ONNX and Core ML, on the sample frame",
        "weights": "trained, ships with the package" if trained else "seeded random weights, range-calibrated",
        "network": contract["network"],
        "million_parameters": get_variant(model).million_parameters,
        "seconds": round(run.seconds, 1),
        "peak_rss_anon_bytes": run.peak_rss_anon,
        "packages": packages,
        "interpreted_seconds": seconds,
        "environment": environment(),
    }
    (RESULTS / f"coreml_packages-{model}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{model}: {run.seconds:.0f} s, {run.peak_rss_anon / 1e9:.2f} GB; interpreted in {seconds}")


def _interpreted(bundle: Path, precision: str) -> dict[str, float]:
    """Wall and CPU seconds of one frame, the package already read."""
    import torch

    from cdm_export.coreml.interpreter.execute import execute
    from cdm_export.coreml.interpreter.program import load_program

    program = load_program(bundle / "coreml" / f"{precision}.mlpackage")
    with np.load(next((bundle / "golden").iterdir()), allow_pickle=False) as arrays:
        inputs = {spec.name: torch.from_numpy(arrays[spec.name]) for spec in program.inputs}
    wall, cpu = time.perf_counter(), time.process_time()
    execute(program, inputs)
    return {"wall": round(time.perf_counter() - wall, 1), "processor": round(time.process_time() - cpu, 1)}


def coreml_packages() -> str:
    """The README's table."""
    rows = [
        "| model, weights, network | package | size | mean error | p99 error | gate | interpreted (CPU) |",
        "|---|---|---|---|---|---|---|",
    ]
    results = [(path.stem, json.loads(path.read_text())) for path in RESULTS.glob("coreml_packages-*.json")]
    for stem, result in sorted(results, key=lambda item: float(item[1]["million_parameters"])):
        weights, network = result["weights"].split(",")[0], "x".join(map(str, result["network"]))
        name = f"{stem.removeprefix('coreml_packages-')}, {weights}, {network}"
        for package in result["packages"]:
            seconds = result["interpreted_seconds"].get(package["precision"])
            interpreted = f"{seconds['wall']:.2g} s ({seconds['processor']:.2g} s)" if seconds else ""
            gate = "passed" if package["published"] else "failed, not published"
            if loss := package.get("input_loss"):
                gate += f"; its 8-bit image alone: mean {loss['mean']:.1e}, p99 {loss['p99']:.1e}"
            rows.append(
                f"| {name} | {package['precision']} | {package['megabytes']:,.1f} MB | {package['mean']:.1e} "
                f"| {package['p99']:.1e} | {gate} | {interpreted} |"
            )
            name = ""
    return "\n".join(rows)


if __name__ == "__main__":
    typer.run(main)
