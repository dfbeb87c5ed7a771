"""Time and anonymous memory of a whole verified export: ``python -m benchmarks.export_memory cdm-vitl``.

The limit is 1.6 times the float32 weights. Both sources of weights can be measured: seeded weights, which are anonymous
from the start, and a checkpoint, which is mapped.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.memory import run_sampled
from cdm_export.bench.environment import environment

LIMIT = 1.6


def main(
    model: Annotated[str, typer.Argument(help="Registry name.")] = "cdm-vitl",
    camera: Annotated[str, typer.Option(help="Camera size.")] = "640x480",
    from_checkpoint: Annotated[bool, typer.Option(help="Save the seeded weights first, and export the file.")] = False,
) -> None:
    """Export, sample, write ``results/export_memory-MODEL[-checkpoint].json``; exit code 1 over the limit."""
    from cdm_export.reference_model.registry import get_variant

    weights = int(get_variant(model).million_parameters * 4e6)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.bundle"
        source = ["--random-weights", "0", "--model", model]
        if from_checkpoint:
            source = [str(_saved(model, camera, Path(folder)))]
        command = [sys.executable, "-m", "cdm_export", "export", *source, "--camera", camera, "-o", str(out)]
        run = run_sampled(command)
        if run.exit_code:
            raise typer.Exit(run.exit_code)
        parity = json.loads((out / "reports" / "parity.json").read_text())
    ratio = run.peak_rss_anon / weights
    result = {
        "what": f"whole verified export of {model} at {camera}: reference, rewrites, ONNX, every installed CPU backend",
        "weights": "checkpoint file" if from_checkpoint else "seeded random weights, range-calibrated",
        "float32_weights_bytes": weights,
        "peak_rss_anon_bytes": run.peak_rss_anon,
        "ratio": round(ratio, 3),
        "limit": LIMIT,
        "seconds": round(run.seconds, 1),
        "samples": run.samples,
        "parity": [backend["verdict"] for backend in parity["backends"]],
        "timeline_seconds_bytes": run.timeline,
        "environment": environment(),
    }
    name = f"export_memory-{model}{'-checkpoint' if from_checkpoint else ''}.json"
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{path.name}: {run.seconds:.0f} s, {run.peak_rss_anon / 1e9:.2f} GB = {ratio:.2f} x weights (limit {LIMIT})")
    if not ratio <= LIMIT:
        raise typer.Exit(1)


def _saved(model: str, camera: str, folder: Path) -> Path:
    """Seeded, range-calibrated weights as a checkpoint file, made in a process of its own that ends before the run."""
    import subprocess

    path = folder / f"{model}.pt"
    subprocess.run([sys.executable, "-m", "benchmarks.seeded_checkpoint", model, camera, str(path)], check=True)
    return path


if __name__ == "__main__":
    typer.run(main)
