"""What every format offers an export, and what an export hands from one format to the next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from cdm_export.parity.check_backend import BackendParity
from cdm_export.parity.golden import ReferenceFrame
from cdm_export.progress import Progress
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.bundle import Artifact, Provenance
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.quantization import Dropped
from cdm_export.runtimes.sources import FrameSource

REFERENCE = "eager float32 PyTorch"
"""What everything is compared with."""
R = TypeVar("R")


@dataclass
class ExportJob:
    """One export at work. Every format adds what it made; those after it may build on that."""

    contract: ModelContract
    """What is exported."""
    weights: WeightsSource
    """Of the network; after the first format, those that were made."""
    folder: Path
    """The bundle in the making; a format writes in a folder of its own in it."""
    references: list[ReferenceFrame]
    """Frames that everything is verified on; the first format adds PyTorch's output to them."""
    outputs: Path
    """Folder of raw outputs, ``BACKEND-PRECISION-INDEX.npy``; it is no part of the bundle."""
    progress: Progress
    """Where it is said what happens."""
    more_frames: list[ReferenceFrame] = field(default_factory=list)
    """Frames of other interfaces: PyTorch's output is added to them too, and nothing else is measured on them."""
    own_frames: dict[str, list[ReferenceFrame]] = field(default_factory=dict)
    """Frames of precisions that are not fed ``references``."""
    provenance: Provenance | None = None
    """Where the weights came from, once they were read."""
    max_abs: dict[str, float | None] = field(default_factory=dict)
    """Largest magnitude per module; empty where nobody measured it."""
    artifacts: list[Artifact] = field(default_factory=list)
    """For the manifest."""
    checked: list[BackendParity] = field(default_factory=list)
    """Parities that decide the outcome of the export."""
    dropped: list[Dropped] = field(default_factory=list)
    """What was made and is not in the bundle."""
    results: dict[type, object] = field(default_factory=dict)
    """What a format leaves for those after it, by its type."""

    def result(self, kind: type[R]) -> R | None:
        """What an earlier format left; None where that was not asked for, or made nothing."""
        found = self.results.get(kind)
        return found if isinstance(found, kind) else None


class Exporter(Protocol):
    """One format of one export, with its own options. In the order of these methods."""

    @property
    def name(self) -> str:
        """As in ``FORMATS`` (``export/formats.py``)."""
        ...

    def check_request(self, names: tuple[str, ...]) -> None:
        """Before anything else. ``names``: of all the formats asked for. Raises InputError for options that contradict
        each other or another format's.
        """
        ...

    def check_host(self) -> None:
        """Raises BackendUnavailable, with the command that adds it, for a library that is missing here."""
        ...

    def check_sources(self, open_source: Callable[[str], FrameSource], progress: Progress) -> None:
        """Before any long work: open the frames that it needs beside the references. Raises InputError."""
        ...

    def prepare(self, job: ExportJob) -> None:
        """Write those frames; the references lie there, without PyTorch's output."""
        ...

    def make(self, job: ExportJob) -> None:
        """Make the artifacts, verify each as it was saved, and add them to the job."""
        ...

    def report(self, job: ExportJob, reports: Path) -> None:
        """Write tables of its own."""
        ...
