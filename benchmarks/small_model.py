"""The small model that ships with the package against filling holes without a network -> ``results/small_model.json``.

``python -m benchmarks.small_model [--real FOLDER]``: 200 rendered frames that training never saw, and hidden rectangles
of real frames where there are some (``../shared/data/rgbd``, or a folder like it).
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from cdm_export.bench.environment import environment
from cdm_export.reference_model.checkpoint import load_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.training.evaluate import (
    HELD_OUT_FRAMES,
    HELD_OUT_SEED,
    METHODS,
    Score,
    held_out,
    refiner,
    score_real,
    score_rendered,
)
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.runtimes.errors import CheckpointError
from cdm_export.runtimes.hashing import sha256_of
from cdm_export.runtimes.sources import SourceFrame, open_source

MODEL = "cdm-vitt"
RESULT = Path(__file__).parent / "results" / "small_model.json"
_SCALES = {"tum": 5000.0, "cdm": 10000.0}
"""Sensor units per meter of the frames whose names begin so; others are in millimeters."""


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="Weights; those in the package by default.")] = None,
    real: Annotated[Path, typer.Option(help="Folder of real frames; left out when absent.")] = Path(
        "../shared/data/rgbd"
    ),
    frames: Annotated[int, typer.Option(help="Rendered frames.")] = HELD_OUT_FRAMES,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON to write.")] = RESULT,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.")] = 2,
) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(threads)
    variant = get_variant(MODEL)
    path = checkpoint or bundled_checkpoint(MODEL)
    if path is None:
        raise CheckpointError(f"no weights of {MODEL} in this installation", "Give some with --checkpoint.")
    methods = {**METHODS, "refined": refiner(load_network(path, variant)[0], variant)}
    rendered = score_rendered(methods, held_out(frames))
    photographed = _real_frames(real)
    result: dict[str, Any] = {
        "environment": environment(),
        "model": MODEL,
        "sha256": sha256_of(path),
        "rendered": {
            "frames": frames,
            "seed": HELD_OUT_SEED,
            "scores": {name: {at: _rounded(score) for at, score in by.items()} for name, by in rendered.items()},
        },
        "real": {
            "frames": [frame.name for frame in photographed],
            "hidden_share": 0.1,
            "scores": {name: _rounded(score) for name, score in score_real(methods, photographed).items()},
        },
        "bar": {
            "nearest fill is at least 5 % wrong": rendered["nearest fill"]["overall"].abs_rel >= 0.05,
            **{
                f"must: beats {name} {region}": rendered["refined"][region].abs_rel < rendered[name][region].abs_rel
                for name, region in (("raw sensor", "overall"), ("nearest fill", "holes"), ("Telea", "holes"))
            },
            **{
                f"aim: beats {name} overall": rendered["refined"]["overall"].abs_rel < rendered[name]["overall"].abs_rel
                for name in ("nearest fill", "Telea")
            },
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    _print(result)


def _real_frames(folder: Path) -> list[SourceFrame]:
    """Frames of a folder whose units differ; none when there is no such folder."""
    names = open_source(str(folder)).names if folder.is_dir() else ()
    scales = [_SCALES.get(name.partition("_")[0], 1000.0) for name in names]
    return [open_source(str(folder), depth_scale=scale).load(index) for index, scale in enumerate(scales)]


def _rounded(score: Score) -> dict[str, float]:
    return {name: round(value, 4) for name, value in score._asdict().items()}


def _print(result: dict[str, Any]) -> None:
    for title, by in (*_regions(result["rendered"]["scores"]), ("real, hidden", result["real"]["scores"])):
        for name, score in by.items():
            figures = "  ".join(f"{figure} {value:.4f}" for figure, value in score.items())
            print(f"{title:>14}  {name:<12}  {figures}")
    for condition, met in result["bar"].items():
        print(f"{'yes' if met else 'NO':>3}  {condition}")


def _regions(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    regions = next(iter(scores.values()))
    return [(region, {name: by[region] for name, by in scores.items()}) for region in regions]


if __name__ == "__main__":
    typer.run(main)
