"""The main job on an embedded default: no checkpoint, no camera, no download."""

from dataclasses import dataclass
from pathlib import Path

from cdm_export.backend_parity import BackendParity
from cdm_export.export import ExportRequest, export_bundle
from cdm_export.progress import Progress
from cdm_export.refine import RANDOM_WARNING, Refined, refine
from runtimes.bundle import Bundle
from runtimes.opening import open_choice
from runtimes.selection import Choice, choose
from runtimes.sources import open_source

MODEL = "cdm-vits"
SEED = 0


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    bundle: Bundle
    """The bundle."""
    parities: list[BackendParity]
    """Its parity."""
    choice: Choice
    """What ran the frame."""
    refined: Refined
    """The frame."""


def run_demo(out: Path, progress: Progress) -> Demo:
    """Export seeded weights, verify, refine the sample frame; everything lands in the folder ``out``.

    The frame is the Middlebury 2014 Motorcycle pair of scikit-image's wheel, turned into metric depth with its
    calibration and given a depth camera's holes and noise.
    """
    source = open_source("sample")
    camera = source.load(0).frame.size
    out.mkdir(parents=True, exist_ok=True)
    request = ExportRequest(
        out=out / "demo.bundle", camera=camera, random_weights=SEED, model=MODEL, frames="sample", overwrite=True
    )
    bundle, parities = export_bundle(request, progress)
    choice = choose(bundle)
    progress.stage(f"refining the sample frame with {choice.backend.name}")
    with open_choice(bundle, choice) as pipeline:
        refined = refine(pipeline, source.load(0), out, str(choice), RANDOM_WARNING)
    return Demo(bundle, parities, choice, refined)
