"""The INT8 part of an export: calibration frames, two graphs, their parity, and the guard: what does not pay goes."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cdm_export.bench.speed_gate import ExecutionPath, compare_speed
from cdm_export.exporter import REFERENCE, ExportJob
from cdm_export.onnx.exporter import verifiers
from cdm_export.onnx.worker import Made, MadeGraph
from cdm_export.parity.check_backend import BackendParity, check_backend
from cdm_export.parity.golden import ReferenceFrame, prepare_frames
from cdm_export.progress import Progress
from cdm_export.quantize.calibration import split
from cdm_export.quantize.frame_figures import warn_of_unlike_frames
from cdm_export.quantize.kernels import KERNEL_AIM, KernelJob, by_part, kernel_costs
from cdm_export.quantize.sensitivity import VERIFICATION_AIM, at_most, summarize
from cdm_export.quantize.worker import Int8Job, JobFrame, MadeInt8, make_int8
from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.bundle import State, Verdict
from cdm_export.runtimes.contract import Precision
from cdm_export.runtimes.errors import BackendUnavailable, InputError, ParityError
from cdm_export.runtimes.quantization import Dropped, FrameGroup, Quantization
from cdm_export.runtimes.sources import FrameSource

_FEW = 8
"""Frames under which the ranges are a matter of luck."""
_ATTEMPTS = 4
"""Searches, the first among them, that kernels further off than the simulation are worth."""
_CLOSER = 0.95
"""Of what FP16 leaves of the gate; so a search that is made again never finds the same parts."""


@dataclass(frozen=True)
class Int8Request:
    """What to quantize on."""

    calibration: str
    """Source of the calibration frames."""
    keep_slower: bool = False
    """Publish the CPUs' graph although it is slower, marked as dropped."""


def check_source(source: FrameSource, name: str, progress: Progress) -> None:
    """Before any long work. Raises InputError for a source without frames; few of them become a warning."""
    if len(source) == 0:
        raise InputError(f"'{name}' holds no frames: int8 takes its ranges from them", "Choose another --calibration.")
    source.load(0)
    if len(source) < _FEW:
        held_out = len(split(len(source))[1])
        judging = f"{held_out} of them only judge it" if held_out else "too few to hold one out that judges it"
        progress.warn(
            f"int8 takes its ranges from {len(source)} calibration frame(s), {judging}: what these do not show will be "
            "cut off; 32 or more from the robot's own camera are better"
        )


class Int8Exporter:
    """Two graphs from one set of integers; see ``Exporter``."""

    name = "int8"

    def __init__(self, request: Int8Request) -> None:
        self._request = request
        self._calibration: FrameSource | None = None
        self._frames: list[ReferenceFrame] = []
        self._verified: list[BackendParity] = []
        self._dropped: list[Dropped] = []
        self._quantization: Quantization | None = None

    def check_request(self, names: tuple[str, ...]) -> None:
        """Nothing contradicts it."""

    def check_host(self) -> None:
        """What ONNX needs is enough."""

    def check_sources(self, open_source: Callable[[str], FrameSource], progress: Progress) -> None:
        """The calibration frames. Raises InputError when there are none."""
        self._calibration = open_source(self._request.calibration)
        check_source(self._calibration, self._request.calibration, progress)

    def prepare(self, job: ExportJob) -> None:
        """Calibration frames with their inputs; a warning where they are unlike the references."""
        assert self._calibration is not None
        self._frames = prepare_frames(self._calibration, job.contract, job.outputs / "calibration", job.progress)
        warn_of_unlike_frames(self._frames, job.references, job.contract, job.progress)

    def make(self, job: ExportJob) -> None:
        """Make both graphs, verify them, and drop the CPUs' one unless it is faster than what passed before it."""
        made = job.result(Made)
        assert made is not None and job.provenance is not None, "ONNX comes first"
        parities = [parity for parity in job.checked if parity.batch == 1]
        folder = job.folder / "onnx"
        int8_job = Int8Job(
            contract=job.contract,
            weights=job.weights,
            identity=job.provenance.sha256,
            source=self._request.calibration,
            frames=_job_frames(self._frames),
            verification=_job_frames(job.references),
            verification_limit=VERIFICATION_AIM,
            folder=str(folder),
        )
        checker = _Checker(job)
        try:
            int8, found, on_device = _make_and_check(int8_job, checker, job.progress)
        except ParityError as error:
            job.progress.note(f"int8 is not published: {error.message}")
            self._drop(job, Dropped(name="onnx/int8", reason=error.message, failed=True))
            for left in folder.glob("int8*"):
                left.unlink()  # of a search before the last one
            return
        job.results[MadeInt8] = int8
        cpu_graph, device = int8.graphs
        quantization = int8.quantization
        passed = [parity for parity in found if parity.verdict.passed]
        self._verified += found
        job.checked += passed or found  # one backend that passes is enough
        for parity in found if passed else ():
            if parity not in passed:
                job.progress.note(f"{parity.name} will not be run, others do: {parity.verdict}")
        state = State.PUBLISHED if passed else State.FAILED
        if passed:
            graphs: dict[str, MadeGraph] = {
                graph.precision: graph for graph in (*made.graphs, cpu_graph) if graph.batch == 1
            }
            paths = [
                ExecutionPath(
                    backend=parity.backend,
                    precision=parity.precision,
                    file=folder / _run_by(BACKENDS[parity.backend], parity.precision, graphs).files[0],
                )
                for parity in (*parities, *checker.hints(graphs), *passed)
                if parity.verdict.passed and parity.backend != "torch"
            ]
            speed = compare_speed(paths, job.contract, [frame.path for frame in job.references], job.progress)
            quantization = quantization.model_copy(update={"speed": speed})
            if speed is None or not speed.faster:
                reason = (
                    "it, or everything it is raced against, did not run to the end" if speed is None else str(speed)
                )
                job.progress.note(f"int8 does not pay on this machine: {reason}")
                state = State.DROPPED
                if not self._request.keep_slower:
                    self._drop(job, Dropped(name="onnx/int8", reason=reason, failed=False))
                    for name in cpu_graph.files:
                        (folder / name).unlink()
            else:
                job.progress.note(f"int8 pays on this machine: {speed}")
        self._quantization = quantization
        if state is not State.DROPPED or self._request.keep_slower:
            job.artifacts.append(cpu_graph.artifact(job.folder, int8.rewrites, state, _verdicts(found), quantization))
        self._verified += on_device
        job.checked += on_device
        # Its speed is known where `build` makes an engine of it.
        failed = any(not parity.verdict.passed for parity in on_device)
        state = State.FAILED if failed else State.CANDIDATE
        job.artifacts.append(device.artifact(job.folder, int8.rewrites, state, _verdicts(on_device), int8.quantization))

    def report(self, job: ExportJob, reports: Path) -> None:
        """``int8.json``: calibration, trials, sensitivity, kept parts, parity and speed, published or not."""
        if self._quantization is None:
            return
        table = {
            "quantisation": self._quantization.model_dump(mode="json"),
            "parity": [
                {"precision": parity.precision, **parity.verdict.model_dump(mode="json")} for parity in self._verified
            ],
            "dropped": [dropped.model_dump(mode="json") for dropped in self._dropped],
        }
        (reports / "int8.json").write_text(json.dumps(table, indent=1))

    def _drop(self, job: ExportJob, dropped: Dropped) -> None:
        self._dropped.append(dropped)
        job.dropped.append(dropped)


def _job_frames(frames: list[ReferenceFrame]) -> tuple[JobFrame, ...]:
    return tuple(JobFrame(name=frame.name, path=str(frame.path)) for frame in frames)


def _make_and_check(
    job: Int8Job, checker: "_Checker", progress: Progress
) -> tuple[MadeInt8, list[BackendParity], list[BackendParity]]:
    """Both graphs and their parities; where they fail although the simulation holds, parts are searched again.

    Where the CPUs' graph fails, its kernels tell which parts they round too coarsely, and these are refused. Where the
    other one fails, whose rest is FP16, the simulation may use as much less of the gate as it was overshot. What was
    simulated is known already. Raises ParityError with the figures when neither helps.
    """
    told = ""
    for _ in range(_ATTEMPTS):
        made = make_int8(job, progress)
        cpu_graph, device = made.graphs
        on_cpu, on_device = checker.check(cpu_graph, "int8"), checker.check(device, "int8-fp16")
        simulated = [
            judged.found.share_of_gate
            for judged in made.quantization.judgments
            if judged.group is FrameGroup.VERIFICATION and judged.found.share_of_gate
        ]
        over_cpu, over_device = overshoot(on_cpu, any_passes=True), overshoot(on_device, any_passes=False)
        if not simulated or max(over_cpu, over_device) <= 1:
            return made, on_cpu, on_device
        told = (
            f"int8 uses {max(over_cpu, over_device):.2f} of its gate on verification frames in the kernels, "
            f"{simulated[0]:.2f} in the simulation"
        )
        progress.note(f"{told}: parts are searched again")
        if over_cpu > 1:
            job = job.model_copy(update={"refused": job.refused | _refused(job, made, on_cpu, told, progress)})
        if over_device > 1:
            limit = min(job.verification_limit, simulated[0]) / over_device * _CLOSER
            job = job.model_copy(update={"verification_limit": limit})
    raise ParityError(f"{told}, after {_ATTEMPTS} searches")


def _refused(
    job: Int8Job, made: MadeInt8, parities: list[BackendParity], told: str, progress: Progress
) -> dict[str, str]:
    """What the kernels of the backend that is least off compute too coarsely on the frame that it is worst on.

    Raises ParityError when the parts that may be excluded do not suffice.
    """
    least = min(parities, key=_used)
    worst = summarize(least.frames).worst or 0
    parts = list(made.quantization.sensitivity)
    out = [part for part in parts if part in made.quantization.excluded]
    costs = kernel_costs(
        KernelJob(
            backend=least.backend,
            graph=str(Path(job.folder) / made.graphs[0].files[0]),
            contract=job.contract,
            precision="int8",
            frame=job.verification[worst].path,
            parts=by_part(made.quantization.steps, [part for part in parts if part not in out]),
            most=max(0, at_most(len(parts)) - len(out)),
        ),
        progress,
    )
    if costs.left > KERNEL_AIM:
        raise ParityError(
            f"{told}; with {len(out) + len(costs.excluded)} of {len(parts)} parts not quantized it uses "
            f"{costs.left:.2f} in {least.backend}, at most {KERNEL_AIM:g} is wanted"
        )
    where = f"in {least.backend}'s kernels on verification frame {job.verification[worst].name}"
    return {part: f"alone it costs {costs.alone[part]:.2f} of the gate {where}" for part in costs.excluded}


def overshoot(parities: list[BackendParity], *, any_passes: bool) -> float:
    """The share of its gate that a graph uses which fails.

    ``any_passes``: one backend that passes is enough, and the best of the others is told; else all have to, and the
    worst is. 0 where it does not fail, or nothing could be compared: fewer integers are no remedy for that.
    """
    failed = [_used(parity) for parity in parities if not parity.verdict.passed]
    if not failed or (any_passes and len(failed) < len(parities)):
        return 0.0
    share = min(failed) if any_passes else max(failed)
    return share if math.isfinite(share) else 0.0


def _used(parity: BackendParity) -> float:
    share = summarize(parity.frames).share_of_gate
    return math.inf if share is None else share


@dataclass(frozen=True)
class _Checker:
    """Parity of one export's graphs on this machine's CPU."""

    job: ExportJob

    def check(self, graph: MadeGraph, precision: Precision) -> list[BackendParity]:
        """Every installed backend of the CPU that computes ``precision``."""
        return [
            self._one(backend, graph, precision)
            for backend in verifiers()
            if graph.precision in backend.precisions.get(precision, ())
        ]

    def hints(self, graphs: Mapping[str, MadeGraph]) -> list[BackendParity]:
        """BF16 as a library's own arithmetic, where the CPU has it: with FP32's graph and with INT8's."""
        found = []
        for precision in ("bf16", "int8-bf16"):
            for backend in verifiers():
                if precision in graphs or backend.runs_for(precision, graphs) is None:
                    continue  # what has a graph of its own was checked with it
                graph = _run_by(backend, precision, graphs)
                try:
                    found.append(self._one(backend, graph, precision))
                except BackendUnavailable:
                    continue  # this CPU has no such arithmetic
        return found

    def _one(self, backend: Backend, graph: MadeGraph, precision: str) -> BackendParity:
        job = self.job
        path = job.folder / "onnx" / graph.files[0]
        return check_backend(
            backend.name, path, job.contract, precision, job.references, REFERENCE, job.progress, keep=job.outputs
        )


def _run_by(backend: Backend, precision: str, graphs: Mapping[str, MadeGraph]) -> MadeGraph:
    typed = backend.runs_for(precision, graphs)
    assert typed is not None, f"{backend.name} computed {precision} of something"
    return graphs[typed]


def _verdicts(parities: list[BackendParity]) -> list[Verdict]:
    return [parity.verdict for parity in parities]
