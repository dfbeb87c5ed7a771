"""Every CPU path of cdm-vits at 640x480 beside a plain ONNX Runtime session -> ``results/half_paths.json``.

``python -m benchmarks.half_paths BUNDLE``: a bundle of seeded cdm-vits. The plain session runs the untouched graph (the
reference network exported as it is). All are timed in turns in one process; errors are against eager PyTorch, as
stored in the bundle.
"""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from cdm_export.bench.environment import environment
from cdm_export.onnx.convert import export_onnx
from cdm_export.parity.compare import compare
from cdm_export.parity.golden import load_reference
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.backends import get_backend, load_runtime
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.measure import measure
from cdm_export.runtimes.selection import executions

RESULT = Path(__file__).parent / "results" / "half_paths.json"
PLAIN = "onnxruntime fp32, untouched graph"
_BACKENDS = ("onnxruntime", "openvino")
_LIMITS = {"fp32": 0.88, "half": 0.45}


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle of seeded cdm-vits at 640x480.")],
    rounds: Annotated[int, typer.Option(help="Timed calls of each.")] = 9,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON to write.")] = RESULT,
) -> None:
    """Time, compare, write, print."""
    opened = Bundle.open(bundle)
    contract = opened.manifest.contract
    arrays = load_reference(opened.file(opened.manifest.golden[0].file))
    inputs = {spec.name: arrays[spec.name] for spec in contract.inputs}
    name = contract.output.name
    calls: dict[str, Callable[[], NDArray[np.float32]]] = {}
    precisions = {PLAIN: "fp32"}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        weights = opened.manifest.provenance.random_weights
        assert weights is not None, "the untouched graph is made from seeded weights"
        export_onnx(WeightsSource(seeded=weights).exportable(contract), contract, plain)
        runtime = load_runtime(get_backend("onnxruntime"), plain, contract, "fp32")
        calls[PLAIN] = partial(_run, runtime, inputs, name)
        for backend in map(get_backend, _BACKENDS):
            for artifact, precision in executions(opened, backend):
                runtime = load_runtime(backend, opened.artifact_file(artifact), contract, precision)
                calls[f"{backend.name} {precision}"] = partial(_run, runtime, inputs, name)
                precisions[f"{backend.name} {precision}"] = precision
        errors = {
            label: compare("golden", arrays["raw_output"], call(), contract, precisions[label])
            for label, call in calls.items()
        }
        times = measure(calls, budget=0, least=rounds)
    result: dict[str, Any] = {"environment": environment(), "model": contract.model, "network": str(contract.network)}
    result["limits"] = _LIMITS
    result["paths"] = {
        label: {
            "p50_ms": round(times[label].p50, 1),
            "p90_ms": round(times[label].p90, 1),
            "calls": times[label].calls,
            "ratio": round(times[label].p50 / times[PLAIN].p50, 3),
            "mean": errors[label].depth.mean,
            "p99": errors[label].depth.p99,
            "verdict": errors[label].verdict,
        }
        for label in calls
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(half_paths())


def _run(runtime: Any, inputs: dict[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    out: NDArray[np.float32] = runtime(inputs)[name]
    return out


def half_paths() -> str:
    """Time, ratio to the plain session, error and gate of every path."""
    result = json.loads(RESULT.read_text())
    environment_ = result["environment"]
    rows = [
        f"| {result['model']}, {environment_['usable_cpus']} cores of {environment_['cpu']} | p50 | p90 | ratio | mean "
        "error | p99 error | gate |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, path in result["paths"].items():
        rows.append(
            f"| {label} | {path['p50_ms']:.0f} ms | {path['p90_ms']:.0f} ms | {path['ratio']:.2f} "
            f"| {path['mean']:.1e} | {path['p99']:.1e} | {path['verdict']} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    typer.run(main)
