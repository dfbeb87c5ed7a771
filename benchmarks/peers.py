"""Ours beside what people use today -> ``results/peers_MODEL.json``.

``python -m benchmarks.peers BUNDLE [--checkpoint CKPT]``. The peers run the reference network in its original form: in
PyTorch, eager and compiled, and exported as it is to ONNX for ONNX Runtime and OpenVINO. Everything that is ours and
passed its gate runs from the bundle. All in fresh processes, one golden frame of each in turn, image to depth.
"""

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.peer_worker import PeerJob
from cdm_export.bench.environment import conditions, environment
from cdm_export.bench.interleaved import RunPlan, run_interleaved
from cdm_export.bench.statistics import Interval, paired_ratio
from cdm_export.bench.worker import BenchJob
from cdm_export.cli.console import progress
from cdm_export.onnx.convert import export_onnx
from cdm_export.reference_model.torch_runtime import load_exportable
from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.errors import CdmExportError
from cdm_export.runtimes.isolated import Child
from cdm_export.runtimes.opening import reference_path
from cdm_export.runtimes.selection import choose, executions

RESULTS = Path(__file__).parent / "results"
BASELINE = "onnxruntime, plain export"
_PEERS = {
    "PyTorch eager": "torch",
    "torch.compile": "torch.compile",
    BASELINE: "onnxruntime",
    "openvino, plain export": "openvino",
}


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle to compare.")],
    checkpoint: Annotated[Path | None, typer.Option(help="What it was made from, unless seeded weights.")] = None,
    rounds: Annotated[int, typer.Option(help="Timed frames of each.")] = 15,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON to write.")] = None,
) -> None:
    """Time, write, print."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # for the peers' processes: benchmarks is not installed
    opened = Bundle.open(bundle)
    contract = opened.manifest.contract
    weights = reference_path(opened, checkpoint)
    frames = tuple(str(opened.file(golden.file)) for golden in opened.manifest.golden)
    with tempfile.TemporaryDirectory() as folder, progress(True) as shown:
        plain = Path(folder) / "plain.onnx"
        export_onnx(load_exportable(weights, contract), contract, plain)
        starts = {}
        for name, peer in _PEERS.items():
            path = weights if peer.startswith("torch") else plain
            job = PeerJob(peer=peer, path=str(path), contract=contract, frames=frames)  # type: ignore[arg-type]
            starts[name] = partial(Child, "benchmarks.peer_worker", job, name)
        for name, job_of_ours in _ours(opened, frames).items():
            starts[name] = partial(Child, "cdm_export.bench.worker", job_of_ours, name)
        before = conditions()
        raced = run_interleaved(starts, RunPlan(frames=rounds), shown)
    if BASELINE in raced.failed:
        raise raced.failed[BASELINE]
    baseline = raced.finished[BASELINE].samples_ms
    result: dict[str, Any] = {
        "environment": {**environment(), "before": before, "after": conditions()},
        "model": contract.model,
        "network": f"{contract.network[0]}x{contract.network[1]}",
        "failed": {name: error.message for name, error in raced.failed.items()},
        "paths": {
            name: {
                "p50_ms": round(finished.stages["total"].p50, 2),
                "p90_ms": round(finished.stages["total"].p90, 2),
                "host_ms": round(finished.stages["preprocess"].p50 + finished.stages["postprocess"].p50, 2),
                "calls": finished.stages["total"].calls,
                "ratio": [round(value, 4) for value in paired_ratio(finished.samples_ms, baseline)],
                "cold_start_s": round(
                    (finished.runner.opened["open_ms"] + finished.runner.opened["first_ms"]) / 1e3, 2
                ),
                "rss_anon_mb": round(finished.runner.rss_anon_mb or 0),
            }
            for name, finished in raced.finished.items()
        },
    }
    target = out or RESULTS / f"peers_{contract.model}.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(table([result]))


def _ours(bundle: Bundle, frames: tuple[str, ...]) -> dict[str, BenchJob]:
    """Every CPU backend and precision that did not fail."""
    jobs = {}
    for backend in BACKENDS.values():
        for _, precision in executions(bundle, backend) if _runs_here(backend) else ():
            try:
                choose(bundle, backend.name, precision)
            except CdmExportError:
                continue
            jobs[f"ours: {backend.name} {precision}"] = BenchJob(
                bundle=str(bundle.path), backend=backend.name, precision=precision, threads=0, checkpoint=None,
                frames=frames,
            )  # fmt: skip
    return jobs


def _runs_here(backend: Backend) -> bool:
    return backend.installed and backend.device == "cpu" and not backend.verifies_only


def peers() -> str:
    """All committed results."""
    return table([json.loads(path.read_text()) for path in sorted(RESULTS.glob("peers_*.json"))])


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: time from image to depth, and its ratio to the plain export in ONNX Runtime."""
    rows = [
        "| image to depth, 640x480 | p50 | p90 | x plain ONNX Runtime (95 %) | on the host | cold start | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        machine = result["environment"]
        CPU = f"{machine['usable_cpus']} cores of {machine['cpu']} ({', '.join(machine['cpu_features'])})"
        rows.append(f"| **{result['model']}**, {CPU} | | | | | | |")
        for name, path in result["paths"].items():
            rows.append(
                f"| {name} | {path['p50_ms']:.0f} ms | {path['p90_ms']:.0f} ms | {_interval(tuple(path['ratio']))} "
                f"| {path['host_ms']:.1f} ms | {path['cold_start_s']:.1f} s | {path['rss_anon_mb']} MB |"
            )
    return "\n".join(rows)


def _interval(ratio: Interval) -> str:
    middle, low, high = ratio
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    typer.run(main)
