"""The INT8 part of an export: calibration frames, two graphs, their parity, and the guard: what does not pay goes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cdm_export.bench.speed_gate import ExecutionPath, compare_speed
from cdm_export.onnx.worker import Made, MadeGraph, MakeJob
from cdm_export.parity.check_backend import BackendParity, check_backend
from cdm_export.parity.golden import ReferenceFrame
from cdm_export.progress import Progress
from cdm_export.quantize.worker import Int8Job, MadeInt8, make_int8
from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.bundle import Artifact, State, Verdict
from cdm_export.runtimes.contract import Precision
from cdm_export.runtimes.errors import BackendUnavailable, InputError, ParityError
from cdm_export.runtimes.quantization import Dropped, Quantization
from cdm_export.runtimes.sources import FrameSource

_FEW = 8
"""Frames under which the ranges are a matter of luck."""


@dataclass(frozen=True)
class Int8Request:
    """What to quantize on."""

    calibration: str
    """Source of the calibration frames."""
    keep_slower: bool = False
    """Publish the CPUs' graph although it is slower, marked as dropped."""


@dataclass
class Int8Artifacts:
    """What came of it."""

    artifacts: list[Artifact] = field(default_factory=list)
    """Graphs for the bundle."""
    verified: list[BackendParity] = field(default_factory=list)
    """Parity of every graph in every backend."""
    required: list[BackendParity] = field(default_factory=list)
    """The part of it that the caller judges: one backend that passes is enough for cpu_graph."""
    dropped: list[Dropped] = field(default_factory=list)
    """What is not in the bundle."""
    made: MadeInt8 | None = None
    """What other formats take integers from; None when nothing could be made."""
    quantization: Quantization | None = None
    """Everything that was measured, the speed too; None likewise."""

    def write_table(self, reports: Path) -> None:
        """``int8.json``: calibration, trials, sensitivity, kept parts, parity and speed, published or not."""
        if self.quantization is None:
            return
        table = {
            "quantisation": self.quantization.model_dump(mode="json"),
            "parity": [
                {"precision": parity.precision, **parity.verdict.model_dump(mode="json")} for parity in self.verified
            ],
            "dropped": [dropped.model_dump(mode="json") for dropped in self.dropped],
        }
        (reports / "int8.json").write_text(json.dumps(table, indent=1))


def check_source(source: FrameSource, name: str, progress: Progress) -> None:
    """Before any long work. Raises InputError for a source without frames; few of them become a note."""
    if len(source) == 0:
        raise InputError(f"'{name}' holds no frames: int8 takes its ranges from them", "Choose another --calibration.")
    source.load(0)
    if len(source) < _FEW:
        progress.note(
            f"int8 takes its ranges from {len(source)} calibration frame(s): what these do not show will be cut off; "
            "32 or more from the robot's own camera are better"
        )


def add_int8(
    job: MakeJob,
    made: Made,
    request: Int8Request,
    frames: list[ReferenceFrame],
    parities: list[BackendParity],
    folder: Path,
    references: list[ReferenceFrame],
    reference: str,
    progress: Progress,
) -> Int8Artifacts:
    """Make both graphs of one export in ``folder/onnx``, verify them, and drop the CPUs' one unless it is faster.

    ``frames``: to calibrate on. ``parities``: of the other graphs; those that passed are what INT8 has to beat.
    """
    result = Int8Artifacts()
    int8_job = Int8Job(
        contract=job.contract,
        checkpoint=job.checkpoint,
        random_weights=made.provenance.random_weights,
        weights=made.provenance.sha256,
        source=request.calibration,
        frames=tuple(str(frame.path) for frame in frames),
        folder=job.folder,
    )
    try:
        int8 = result.made = make_int8(int8_job, progress)
    except ParityError as error:
        progress.note(f"int8 is not published: {error.message}")
        result.dropped.append(Dropped(name="onnx/int8", reason=error.message, failed=True))
        return result
    cpu_graph, device = int8.graphs
    quantization = int8.quantization
    checker = _Checker(job, references, reference, progress)
    found = checker.check(cpu_graph, "int8")
    passed = [parity for parity in found if parity.verdict.passed]
    result.verified += found
    result.required += passed or found
    for parity in found if passed else ():
        if parity not in passed:
            progress.note(f"{parity.name} will not be run, others do: {parity.verdict}")
    state = State.PUBLISHED if passed else State.FAILED
    if passed:
        graphs: dict[str, MadeGraph] = {
            graph.precision: graph for graph in (*made.graphs, cpu_graph) if graph.batch == 1
        }
        paths = [
            ExecutionPath(
                backend=parity.backend,
                precision=parity.precision,
                file=Path(job.folder) / _run_by(BACKENDS[parity.backend], parity.precision, graphs).files[0],
            )
            for parity in (*parities, *checker.hints(graphs), *passed)
            if parity.verdict.passed and parity.backend != "torch"
        ]
        speed = compare_speed(paths, job.contract, [frame.path for frame in references], progress)
        quantization = quantization.model_copy(update={"speed": speed})
        if speed is None or not speed.faster:
            reason = "it, or everything it is raced against, did not run to the end" if speed is None else str(speed)
            progress.note(f"int8 does not pay on this machine: {reason}")
            state = State.DROPPED
            if not request.keep_slower:
                result.dropped.append(Dropped(name="onnx/int8", reason=reason, failed=False))
                for name in cpu_graph.files:
                    (Path(job.folder) / name).unlink()
        else:
            progress.note(f"int8 pays on this machine: {speed}")
    result.quantization = quantization
    if state is not State.DROPPED or request.keep_slower:
        result.artifacts.append(cpu_graph.artifact(folder, int8.rewrites, state, _verdicts(found), quantization))
    on_device = checker.check(device, "int8-fp16")
    result.verified += on_device
    result.required += on_device
    # Its speed is known where `build` makes an engine of it.
    failed = any(not parity.verdict.passed for parity in on_device)
    state = State.FAILED if failed else State.CANDIDATE
    result.artifacts.append(device.artifact(folder, int8.rewrites, state, _verdicts(on_device), int8.quantization))
    return result


@dataclass(frozen=True)
class _Checker:
    """Parity of one export's graphs on this machine's CPU."""

    job: MakeJob
    references: list[ReferenceFrame]
    reference: str
    progress: Progress

    def check(self, graph: MadeGraph, precision: Precision) -> list[BackendParity]:
        """Every installed backend of the CPU that computes ``precision``."""
        return [
            self._one(backend, graph, precision)
            for backend in _processors()
            if graph.precision in backend.precisions.get(precision, ())
        ]

    def hints(self, graphs: Mapping[str, MadeGraph]) -> list[BackendParity]:
        """BF16 as a library's own arithmetic, where the CPU has it: with FP32's graph and with INT8's."""
        found = []
        for precision in ("bf16", "int8-bf16"):
            for backend in _processors():
                if precision in graphs or backend.runs_for(precision, graphs) is None:
                    continue  # what has a graph of its own was checked with it
                graph = _run_by(backend, precision, graphs)
                try:
                    found.append(self._one(backend, graph, precision))
                except BackendUnavailable:
                    continue  # this CPU has no such arithmetic
        return found

    def _one(self, backend: Backend, graph: MadeGraph, precision: str) -> BackendParity:
        path = Path(self.job.folder) / graph.files[0]
        return check_backend(
            backend.name,
            path,
            self.job.contract,
            precision,
            self.references,
            self.reference,
            self.progress,
            keep=Path(self.job.outputs),
        )


def _processors() -> list[Backend]:
    return [one for one in BACKENDS.values() if one.format == "onnx" and one.device == "cpu" and one.installed]


def _run_by(backend: Backend, precision: str, graphs: Mapping[str, MadeGraph]) -> MadeGraph:
    typed = backend.runs_for(precision, graphs)
    assert typed is not None, f"{backend.name} computed {precision} of something"
    return graphs[typed]


def _verdicts(parities: list[BackendParity]) -> list[Verdict]:
    return [parity.verdict for parity in parities]
