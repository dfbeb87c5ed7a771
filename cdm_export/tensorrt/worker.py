"""Builds one engine in a process of its own (``runtimes/isolated.py``): a builder's crash takes nothing with it."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cdm_export.runtimes import tensorrt_api as api
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import Precision, Record
from cdm_export.runtimes.engine_record import LayerReport
from cdm_export.runtimes.errors import EngineBuildError
from cdm_export.runtimes.graph_precision import PrecisionPlan
from cdm_export.runtimes.isolated import report, run_isolated, serve
from cdm_export.runtimes.nvidia import Gpu, find_gpu
from cdm_export.runtimes.tensorrt_api import Log
from cdm_export.tensorrt.builder import BuildPlan, Built, build_engine
from cdm_export.tensorrt.checks import EvidenceSource, gather
from cdm_export.tensorrt.layers import EngineLayer, parse_inspector, parse_layers

_REPORT_EVERY = 0.1
"""Seconds between two reports of progress."""
_MOST_WARNINGS = 20
_TABLE = "Layers:"
"""How the message begins that holds the whole table; a part of it would prove nothing."""


class BuildJob(Record):
    """What to build, and where to write it."""

    backend: Literal["tensorrt", "tensorrt-rtx"]
    """Library family."""
    graph: str
    """Absolute path of the ONNX file."""
    legacy_graph: str
    """The float32 graph, built instead by a library that has no strong types."""
    precision: Precision
    """What to compute in."""
    precision_plan: PrecisionPlan | None
    """Islands of the typed graph."""
    integers: tuple[str, ...] = ()
    """Modules whose products are of integers."""
    workspace: int
    """Upper limit of scratch memory, bytes; 0 for the library's own."""
    optimization_level: int
    """0..5."""
    timing_caches: str | None
    """Folder of timing caches; None for a library that keeps none."""
    break_fusion: bool
    """Whether attentions must not be fused."""
    gpu: Gpu | None
    """GPU to build for; None where the library builds without one."""
    plan: str
    """File the engine is written to."""


class BuildOutcome(Record):
    """What a finished build reports."""

    version: str
    """``__version__`` of the library."""
    typing: Literal["strong", "legacy"]
    """How types were chosen."""
    tf32: bool
    """As the configuration reports it."""
    workspace: int
    """Limit as the configuration reports it, bytes."""
    attention_bytes: int
    """Size of all attentions' probabilities together."""
    extra_outputs: tuple[str, ...]
    """Outputs beyond the graph's."""
    layer_report: LayerReport
    """What the engine is made of."""
    warnings: tuple[str, ...]
    """The builder's own, the first ones."""
    seconds: float
    """Parsing and building."""


def run_build(
    job: BuildJob,
    on_version: Callable[[str], None],
    on_phase: Callable[[str, int], None],
    on_step: Callable[[int], None],
) -> BuildOutcome:
    """Build in a process of its own; the callbacks get the library's version before the build begins, phases (name,
    steps) and numbers of steps done.

    Raises EngineBuildError, BackendUnavailable, BackendCrashed when the builder dies.
    """

    def on_message(message: dict[str, Any]) -> None:
        if "version" in message:
            on_version(str(message["version"]))
        elif "phase" in message:
            on_phase(str(message["phase"]), int(message["steps"]))
        elif "steps_done" in message:
            on_step(int(message["steps_done"]))

    what = f"the builder of {job.backend}, building {Path(job.graph).name},"
    return BuildOutcome.model_validate(run_isolated(__name__, job, what, on_message))


def _work(text: str) -> BuildOutcome:
    job = BuildJob.model_validate_json(text)
    if job.gpu is not None:
        find_gpu()  # TensorRT's own answer to a missing driver is a crash
    trt = api.load_library(job.backend)
    report({"version": str(trt.__version__)})
    if job.integers and not api.is_strongly_typed(trt):
        raise EngineBuildError(
            f"{job.backend} {trt.__version__} has no strong types, and {job.precision} is a strongly typed graph",
            "Build fp16, or use TensorRT 10.3 or newer.",
        )
    tables: list[str] = []
    log = Log(lambda severity, message: tables.append(message) if message.startswith(_TABLE) else None)
    reporter = _Reporter()
    plan = BuildPlan(
        graph=Path(job.graph if api.is_strongly_typed(trt) else job.legacy_graph),
        precision=job.precision,
        precision_plan=job.precision_plan,
        workspace=job.workspace,
        optimization_level=job.optimization_level,
        timing_cache=_timing_cache(job, trt.__version__),
        break_fusion=job.break_fusion,
    )
    built = build_engine(trt, plan, log, reporter.phase, reporter.step)
    with naming(Path(job.plan)):
        Path(job.plan).write_bytes(built.plan)
    layers, source = _layers(trt, job, built, log, "\n".join(tables))
    return BuildOutcome(
        version=str(trt.__version__),
        typing="strong" if built.typing == "strong" else "legacy",
        tf32=built.tf32,
        workspace=built.workspace,
        attention_bytes=sum(attention.bytes for attention in built.attentions),
        extra_outputs=built.extra_outputs,
        layer_report=gather(
            layers,
            source,
            job.precision,
            job.precision_plan,
            built.attentions,
            tf32=built.tf32,
            fusion_broken=job.break_fusion,
            integers=job.integers,
        ),
        warnings=tuple(dict.fromkeys(log.warnings))[:_MOST_WARNINGS],
        seconds=built.seconds,
    )


def _layers(
    trt: Any, job: BuildJob, built: Built, log: Log, table: str
) -> tuple[tuple[EngineLayer, ...], EvidenceSource]:
    """The builder's table where it prints one; else what the inspector says, which takes a GPU."""
    if layers := parse_layers(table):
        return layers, "layer table in the builder's log"
    if job.gpu is None:
        return (), "none"
    runtime = trt.Runtime(log.logger(trt))
    engine = runtime.deserialize_cuda_engine(built.plan)
    if engine is None:
        return (), "none"
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return parse_inspector(text), "engine inspector"


def _timing_cache(job: BuildJob, version: str) -> Path | None:
    if job.timing_caches is None or job.gpu is None:
        return None
    gpu = job.gpu
    key = f"{version}-sm{gpu.compute_capability}-cuda{gpu.cuda}-{gpu.name}"
    return Path(job.timing_caches) / f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', key)}.cache"


class _Reporter:
    """Tells the parent how far the builder is; a parent that is gone cancels the build."""

    def __init__(self) -> None:
        self._steps = 0
        self._last = 0.0

    def phase(self, name: str, steps: int) -> bool:
        return self._say({"phase": name, "steps": steps})

    def step(self) -> bool:
        self._steps += 1
        now = time.monotonic()
        if now - self._last < _REPORT_EVERY:
            return True
        self._last = now
        done, self._steps = self._steps, 0
        return self._say({"steps_done": done})

    def _say(self, message: dict[str, Any]) -> bool:
        try:
            report(message)
        except OSError:
            return False
        return True


if __name__ == "__main__":
    serve(_work)
