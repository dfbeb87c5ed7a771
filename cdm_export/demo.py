"""The main job on an embedded default: no checkpoint, no camera, no download."""

from dataclasses import dataclass
from pathlib import Path

from cdm_export.export.bundle import export_bundle
from cdm_export.export.request import ExportRequest
from cdm_export.parity.check_backend import BackendParity
from cdm_export.predict.frames import Refined, check_output, refine, weights_warning
from cdm_export.progress import Progress
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.opening import open_choice
from cdm_export.runtimes.selection import Choice, choose
from cdm_export.runtimes.sources import open_source

TRAINED_MODEL = "cdm-vitt"
"""Shipped with trained weights; a checkout without the weights file shows the plumbing with random ones."""
RANDOM_MODEL, SEED = "cdm-vits", 0


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
    """Export the shipped model, verify, refine the sample frame; everything lands in the folder ``out``.

    The frame is the Middlebury 2014 Motorcycle pair of scikit-image's wheel, turned into metric depth with its
    calibration and given a depth camera's holes and noise.
    """
    source = open_source("sample")
    camera = source.load(0).frame.size
    check_output(out, source, out / "demo.bundle")
    out.mkdir(parents=True, exist_ok=True)  # the bundle goes into it
    trained = bundled_checkpoint(TRAINED_MODEL)
    request = ExportRequest(
        out=out / "demo.bundle",
        camera=camera,
        random_weights=None if trained else SEED,
        model=TRAINED_MODEL if trained else RANDOM_MODEL,
        low_precisions=(),
        overwrite=True,
    )
    bundle, parities = export_bundle(request, progress)
    choice = choose(bundle)
    progress.stage(f"refining the sample frame with {choice.backend.name}")
    with open_choice(bundle, choice) as pipeline:
        refined = refine(pipeline, source.load(0), out, str(choice), weights_warning(bundle.manifest))
    return Demo(bundle, parities, choice, refined)
