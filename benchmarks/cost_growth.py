"""How time and memory grow with input size, batch and variant -> ``results/cost_growth.json``.

``python -m benchmarks.cost_growth``. Graphs are made as an export makes them, from seeded weights. Everything runs in
one race: a process per graph and backend, a call of each in turn, and among them a large matrix product per number of
threads, so that what a graph does per second is compared with what the machine could do in the same minutes.
"""

import json
import math
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.gemm_worker import GemmJob
from benchmarks.onnx_macs import count_macs
from benchmarks.peer_worker import PeerJob
from cdm_export.bench.environment import conditions, environment
from cdm_export.bench.interleaved import Finished, RunPlan, run_interleaved
from cdm_export.bench.statistics import median_interval
from cdm_export.cli.console import progress
from cdm_export.onnx.convert import export_onnx
from cdm_export.parity.golden import save_frame
from cdm_export.reference_model.random_weights import seeded_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import ModelContract, Size
from cdm_export.runtimes.host import usable_cpus
from cdm_export.runtimes.isolated import Child
from cdm_export.runtimes.processing import preprocess
from cdm_export.runtimes.sources import open_source
from cdm_export.transforms import specialize_for

RESULT = Path(__file__).parent / "results" / "cost_growth.json"
CAMERA = Size(640, 480)
SIZES = (266, 364, 434, 518)
BATCHED_AT, BATCHES = 364, (2, 4)
BACKENDS = ("onnxruntime", "openvino")
GEMM_SIDE = 2048


@dataclass(frozen=True)
class Point:
    """One network."""

    model: str
    """Registry name."""
    input_size: int
    """Lower bound of the network's sides, pixels."""
    batch: int
    """Frames at once."""

    @property
    def contract(self) -> ModelContract:
        """Of the network."""
        made: ModelContract = get_variant(self.model).contract(self.model, CAMERA, self.input_size)
        return made.batched(self.batch)

    @property
    def name(self) -> str:
        """Of its graph's file."""
        return f"{self.model}-{self.input_size}-b{self.batch}"


def main(
    model: Annotated[list[str] | None, typer.Option(help="Variants; cdm-vitt and cdm-vits by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Timed calls of each.")] = 7,
    graphs: Annotated[Path | None, typer.Option(help="Folder that keeps the graphs.")] = None,
    export_only: Annotated[bool, typer.Option(help="Make the graphs, measure nothing.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON to write.")] = RESULT,
) -> None:
    """Make, race, write, print."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # for the children: benchmarks is not installed
    points = [
        Point(name, size, batch)
        for name in model or ("cdm-vitt", "cdm-vits")
        for size in SIZES
        for batch in (1, *(BATCHES if size == BATCHED_AT else ()))
    ]
    with tempfile.TemporaryDirectory() as temporary, progress(True) as shown:
        folder = graphs or Path(temporary)
        for point in points:
            shown.stage(f"graph {point.name}")
            make_graph(point, folder)
        if export_only:
            return
        source = open_source("sample", camera=CAMERA).load(0)
        frame = Path(temporary) / "frame.npz"
        save_frame(frame, source, preprocess(source.frame, points[0].contract))
        starts = {}
        for threads in sorted({1, usable_cpus()}):
            gemm = GemmJob(side=GEMM_SIDE, threads=threads)
            starts[f"gemm x{threads}"] = partial(Child, "benchmarks.gemm_worker", gemm, f"product x{threads}")
        for point in points:
            for backend in BACKENDS:
                job = PeerJob(
                    peer=backend,  # type: ignore[arg-type]
                    path=str(folder / f"{point.name}.onnx"), contract=point.contract, frames=(str(frame),),
                )  # fmt: skip
                name = f"{point.name} {backend}"
                starts[name] = partial(Child, "benchmarks.peer_worker", job, name)
        before = conditions()
        raced = run_interleaved(starts, RunPlan(frames=rounds), shown)
        for error in raced.failed.values():
            raise error
        result = {
            "environment": {**environment(), "before": before, "after": conditions()},
            "camera": str(CAMERA),
            "rounds": rounds,
            "gemm_gflops": {
                name: round(_gflops(GEMM_SIDE**3, raced.finished[name]), 1) for name in starts if "gemm" in name
            },
            "points": [_figures(point, folder, raced.finished) for point in points],
        }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def make_graph(point: Point, folder: Path) -> None:
    """The FP32 graph of an export, unless it is there."""
    path = folder / f"{point.name}.onnx"
    if path.exists():
        return
    variant, contract = get_variant(point.model), point.contract
    network = variant.exportable(seeded_network(variant, 0), contract.channel_order).eval()
    specialize_for(contract, network)
    export_onnx(network, contract, path.with_suffix(".partial"))
    path.with_suffix(".partial").rename(path)


def _times(finished: Finished) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Of the timed calls, ms."""
    count = len(finished.samples_ms)
    return np.array([call["inference"] for call in finished.runner.calls[-count:]])


def _gflops(macs: int, finished: Finished) -> float:
    return float(2e-6 * macs / np.median(_times(finished)))


def _figures(point: Point, folder: Path, finished: dict[str, Finished]) -> dict[str, Any]:
    macs = count_macs(folder / f"{point.name}.onnx")
    peak = 2e-6 * GEMM_SIDE**3 / _times(finished[f"gemm x{usable_cpus()}"])
    paths = {}
    for backend in BACKENDS:
        done = finished[f"{point.name} {backend}"]
        share = 2e-6 * macs / _times(done) / peak  # round by round
        paths[backend] = {
            "p50_ms": round(float(np.median(_times(done))), 1),
            "quartiles_ms": [round(float(value), 1) for value in np.percentile(_times(done), (25, 75))],
            "share_of_peak": [round(value, 3) for value in median_interval(list(share))],
            "rss_anon_mb": round(done.runner.rss_anon_mb or 0),
        }
    return {**vars(point), "network": str(Size(*point.contract.network)), "macs": macs, "paths": paths}


def growth(result: dict[str, Any], model: str, backend: str) -> float:
    """Exponent of a frame's time over the network's pixels: slope of a straight line through the logarithms."""
    points = [point for point in result["points"] if point["model"] == model and point["batch"] == 1]
    pixels = [math.prod(Size.parse(point["network"])) for point in points]
    times = [point["paths"][backend]["p50_ms"] for point in points]
    return float(np.polyfit(np.log(pixels), np.log(times), 1)[0])


def cost_growth() -> str:
    """The committed result."""
    return table(json.loads(RESULT.read_text()))


def table(result: dict[str, Any]) -> str:
    """Markdown: every network, its multiply-adds, and what both backends make of it."""
    machine = result["environment"]
    threads = machine["usable_cpus"]
    rows = [
        "| network | frames | GMAC per frame | "
        + " | ".join(f"{backend}: ms per frame | of the peak | memory" for backend in BACKENDS)
        + " |",
        "|---|---|---|" + "---|" * 3 * len(BACKENDS),
    ]
    for point in result["points"]:
        batch = point["batch"]
        cells = []
        for backend in BACKENDS:
            path = point["paths"][backend]
            middle, low, high = path["share_of_peak"]
            cells.append(f"{path['p50_ms'] / batch:.0f}")
            cells.append(f"{middle:.0%} ({low:.0%} to {high:.0%})")
            cells.append(f"{path['rss_anon_mb']} MB")
        size = f"{point['model']} {point['input_size']} ({point['network']})"
        rows.append(f"| {size} | {batch} | {point['macs'] / batch / 1e9:.1f} | {' | '.join(cells)} |")
    peaks = ", ".join(f"{peak:.0f} GFLOP/s with {name[6:]} thread(s)" for name, peak in result["gemm_gflops"].items())
    slopes = "; ".join(
        f"{model} " + ", ".join(f"{growth(result, model, backend):.2f} ({backend})" for backend in BACKENDS)
        for model in dict.fromkeys(point["model"] for point in result["points"])
    )
    load = [machine[when].get("load_1min", 0.0) for when in ("before", "after")]
    rows += [
        "",
        f"{threads} cores of {machine['cpu']} ({', '.join(machine['cpu_features'])}), FP32, median of "
        f"{result['rounds']} rounds in turn, 95 % intervals, load {load[0]} before and {load[1]} after.",
        f"Peak: a float32 product of side {GEMM_SIDE} in the same rounds, {peaks}.",
        f"A frame's time grows with the network's pixels to the power of: {slopes}.",
    ]
    if load[0] > threads:
        rows += [
            "",
            "**The machine was busy with other work**: times are longer than its own and shares wide. Multiply-adds "
            "and memory do not mind; for times, run it on an idle machine.",
        ]
    return "\n".join(rows)


if __name__ == "__main__":
    typer.run(main)
