"""The ONNX part of an export: the network rewritten and typed, one graph per precision, each run by every CPU backend.

It comes first: PyTorch's outputs, the ranges of every module and the weights' identity are made on the way.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cdm_export.exporter import REFERENCE, ExportJob
from cdm_export.onnx.worker import Made, MadeGraph, MakeJob, make_onnx
from cdm_export.parity.check_backend import BackendParity, check_backend, check_outputs
from cdm_export.progress import Progress
from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.bundle import Artifact, State
from cdm_export.runtimes.errors import BackendUnavailable
from cdm_export.runtimes.graph_precision import LowPrecision
from cdm_export.runtimes.install import install
from cdm_export.runtimes.sources import FrameSource


@dataclass(frozen=True)
class OnnxExporter:
    """FP32 always; see ``Exporter``."""

    low_precisions: tuple[LowPrecision, ...]
    """What to make beside FP32."""
    batch: int
    """Frames at once of a second FP32 and a second FP16 graph; 1 makes none."""

    name = "onnx"

    def check_request(self, names: tuple[str, ...]) -> None:
        """Nothing contradicts it."""

    def check_host(self) -> None:
        """One backend that runs on any CPU has to be there."""
        if not verifiers():
            raise BackendUnavailable("no backend is installed to verify the export with", f"Add them: {install('cpu')}")

    def check_sources(self, open_source: Callable[[str], FrameSource], progress: Progress) -> None:
        """It needs none."""

    def prepare(self, job: ExportJob) -> None:
        """Nothing."""

    def make(self, job: ExportJob) -> None:
        """PyTorch's outputs, the graphs, their parities."""
        folder = job.folder / "onnx"
        folder.mkdir()
        made = make_onnx(
            MakeJob(
                contract=job.contract,
                weights=job.weights,
                frames=tuple(str(frame.path) for frame in job.references),
                more_frames=tuple(str(frame.path) for frame in job.more_frames),
                low_precisions=self.low_precisions,
                batch=self.batch,
                folder=str(folder),
                outputs=str(job.outputs),
            ),
            job.progress,
        )
        job.results[Made] = made
        job.provenance, job.weights, job.max_abs = made.provenance, job.weights.made(made.provenance), made.max_abs
        parities = [self._check(graph, job) for graph in made.graphs]
        job.checked += itertools.chain.from_iterable(parities)
        job.artifacts += [
            _artifact(graph, made, job.folder, found) for graph, found in zip(made.graphs, parities, strict=True)
        ]

    def report(self, job: ExportJob, reports: Path) -> None:
        """Its parities are in everybody's table."""

    def _check(self, graph: MadeGraph, job: ExportJob) -> list[BackendParity]:
        """Every backend that runs a graph here, and for typed graphs the typed network in PyTorch."""
        contract = job.contract.batched(graph.batch)
        parities = []
        if graph.precision in self.low_precisions and graph.batch == 1:
            parities.append(
                check_outputs("torch", graph.precision, job.outputs, job.contract, job.references, REFERENCE)
            )
        for backend in verifiers():
            if graph.precision not in backend.precisions.get(graph.precision, ()):
                continue
            try:
                parity = check_backend(
                    backend.name,
                    job.folder / "onnx" / graph.files[0],
                    contract,
                    graph.precision,
                    job.references,
                    REFERENCE,
                    job.progress,
                    keep=job.outputs,
                )
            except BackendUnavailable as error:
                if graph.precision == "fp32":
                    raise  # every CPU has that
                job.progress.note(f"{backend.name} {graph.precision} is not verified here: {error.message}")
                continue
            parities.append(parity)
        return parities


def verifiers() -> list[Backend]:
    """Installed backends that verify an ONNX artifact on the exporting machine: those that run on any CPU."""
    return [one for one in BACKENDS.values() if one.format == "onnx" and one.device == "cpu" and one.installed]


def _artifact(graph: MadeGraph, made: Made, folder: Path, parities: list[BackendParity]) -> Artifact:
    if any(not parity.verdict.passed for parity in parities):
        state = State.FAILED
    elif any(BACKENDS[parity.backend].format == "onnx" for parity in parities):
        state = State.PUBLISHED
    else:
        state = State.CANDIDATE  # no backend of this machine executed it
    return graph.artifact(folder, made.rewrites, state, (parity.verdict for parity in parities))
