"""Where in the network does the error leave the tolerance? Any two executions of a bundle, stage by stage.

``stages.py`` says what is looked at, probes show it, ``search.py`` decides where to look, ``report.py`` and ``plot.py``
tell. A further backend is a further probe.
"""

from pathlib import Path

from cdm_export.bisect.bundle_bisect import bisect_bundle
from cdm_export.bisect.report import BisectReport

__all__ = ["BisectReport", "bisect_bundle", "write_report"]


def write_report(report: BisectReport, folder: Path) -> tuple[Path, Path]:
    """Write ``bisect-CANDIDATE.json`` and ``.png`` to a folder, which is made; returns both paths."""
    from cdm_export.bisect.plot import growth_picture
    from cdm_export.predict.drawing import write_png
    from cdm_export.runtimes.cache import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    stem = f"bisect-{report.candidate.replace(' ', '-')}"
    text, picture = folder / f"{stem}.json", folder / f"{stem}.png"
    write_atomically(text, report.model_dump_json(indent=1).encode())
    write_png(picture, growth_picture(report))
    return text, picture
