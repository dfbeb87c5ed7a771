"""What a model takes at its own size: ``python -m benchmarks.families MODEL ...`` -> ``results/families.json``.

Seeded weights, camera 640x480, FP32 and FP16, verified; then an engine of FP16 for TensorRT-RTX, built and inspected
without a GPU. Time and anonymous memory are those of the whole command. A model's row is replaced, the others stay.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.memory import run_sampled
from cdm_export.bench.environment import environment
from cdm_export.runtimes import engines
from cdm_export.runtimes.bundle import Bundle

RESULT = Path(__file__).parent / "results" / "families.json"
CAMERA = "640x480"


def main(models: Annotated[list[str], typer.Argument(help="Registry names.")]) -> None:
    """Export, build, write."""
    for model in models:
        rows = json.loads(RESULT.read_text())["models"] if RESULT.exists() else {}
        rows[model] = _measured(model)
        text = json.dumps({"camera": CAMERA, "models": dict(sorted(rows.items()))}, indent=1)
        RESULT.write_text(text + "\n")
        print(f"{model}: {rows[model]}")


def _measured(model: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.bundle"
        source = ["--random-weights", "0", "--model", model, "--camera", CAMERA, "--fit"]
        run = run_sampled([sys.executable, "-m", "cdm_export", "export", *source, "-o", str(out), "-q"])
        if run.exit_code not in (0, 1):  # 1: a reduced precision missed its gate, and is marked so
            raise typer.Exit(run.exit_code)
        build = ["build", str(out), "--target", "tensorrt-rtx", "--precision", "fp16", "-q"]
        built = subprocess.run([sys.executable, "-m", "cdm_export", *build], capture_output=True, text=True)
        bundle = Bundle.open(out)
        sizes = {one.label: sum(file.size for file in one.files) for one in bundle.manifest.artifacts}
        verdicts = {
            f"{verdict.backend} {one.label}": {"verdict": verdict.verdict, "mean": verdict.mean, "p99": verdict.p99}
            for one in bundle.manifest.artifacts
            for verdict in one.verdicts
        }
        return {
            "network": str(bundle.manifest.contract.network),
            "seconds": round(run.seconds, 1),
            "peak_rss_anon_bytes": run.peak_rss_anon,
            "file_bytes": sizes,
            "verdicts": verdicts,
            "engine": _engine(bundle, built),
            "environment": environment(),
        }


def _engine(bundle: Bundle, built: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    found = [one.record for one in engines.scan(bundle)]
    if built.returncode or not found:
        return {"failed": built.stderr.strip().splitlines()[-3:]}
    report = found[0].layer_report
    return {"kernels": report.kernels, "fused_attention": report.fused_attention, "bytes": found[0].engine.size}


def families() -> str:
    """The table of ``docs/benchmarking.md``."""
    lines = [
        f"| model, camera {CAMERA} | network | export | memory | fp32, fp16 | fp16, ONNX Runtime | engine, fp16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, row in json.loads(RESULT.read_text())["models"].items():
        engine, verdict = row["engine"], row["verdicts"].get("onnxruntime fp16", {})
        fused = f", {engine['fused_attention']} fused attentions" if engine.get("fused_attention") else ""
        kernels = f"{engine['kernels']} kernels{fused}" if "kernels" in engine else "none"
        sizes = row["file_bytes"]
        disk = ", ".join(f"{sizes[name] / 1e6:.0f}" for name in ("fp32", "fp16") if name in sizes)
        error = f"{verdict['verdict']}, mean {verdict['mean']:.1e}" if verdict.get("mean") is not None else "not run"
        lines.append(
            f"| {model} | {row['network']} | {row['seconds']:.0f} s | {row['peak_rss_anon_bytes'] / 1e9:.1f} GB | "
            f"{disk} MB | {error} | {kernels} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
