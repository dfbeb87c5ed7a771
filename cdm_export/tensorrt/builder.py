"""One typed graph becomes one engine. The ``trt`` module is a parameter: TensorRT and TensorRT-RTX are built alike."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_export.onnx.node_names import module_of
from cdm_export.runtimes import tensorrt_api as api
from cdm_export.runtimes.cache import write_atomically
from cdm_export.runtimes.errors import BuildCanceled, EngineBuildError
from cdm_export.runtimes.graph_precision import PrecisionPlan
from cdm_export.runtimes.tensorrt_api import Log

_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2}
_ATTENTION_RANK = 4
"""[batch, heads, queries, keys]: a Softmax of another rank is no attention."""


@dataclass(frozen=True)
class BuildPlan:
    """What to build."""

    graph: Path
    """Absolute path of the ONNX file; its weights lie beside it."""
    precision: str
    """What it computes in."""
    precision_plan: PrecisionPlan | None
    """The islands of a typed graph, from the manifest."""
    workspace: int
    """Upper limit of scratch memory, bytes; 0 for the library's own."""
    optimization_level: int
    """0..5: how long the builder looks for faster kernels."""
    timing_cache: Path | None
    """File of measured tactics; None to keep none."""
    break_fusion: bool = False
    """Mark every attention's probabilities as an output, so that no fused attention kernel can be used."""


@dataclass(frozen=True)
class Attention:
    """The probabilities of one attention, as the parsed network has them."""

    node: str
    """Name of the Softmax."""
    bytes: int
    """Size of the probabilities, which an unfused attention writes and reads."""


@dataclass(frozen=True)
class Built:
    """An engine in memory, and what was learned on the way."""

    plan: bytes
    """The serialized engine."""
    typing: str
    """``strong`` or ``legacy``."""
    tf32: bool
    """TF32 as the configuration reports it."""
    workspace: int
    """Limit as the configuration reports it, bytes."""
    attentions: tuple[Attention, ...]
    """Of the network as parsed."""
    extra_outputs: tuple[str, ...]
    """Outputs that were marked beyond the graph's."""
    seconds: float
    """Parsing and building."""


def build_engine(
    trt: Any,
    plan: BuildPlan,
    log: Log,
    on_phase: Callable[[str, int], bool] = lambda name, steps: True,
    on_step: Callable[[], bool] = lambda: True,
) -> Built:
    """Parse and build. ``on_phase`` and ``on_step`` return False to cancel.

    Raises EngineBuildError with the parser's errors, naming nodes, or the builder's own words, or for a precision this
    library cannot be told; BuildCanceled.
    """
    started = time.perf_counter()
    running = True

    def going_on(go: bool) -> bool:
        nonlocal running
        running = running and go
        return running

    logger = log.logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(api.creation_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(plan.graph)):
        found = api.parser_errors(parser) or [log.said()]
        raise EngineBuildError(
            f"TensorRT {trt.__version__} cannot read {plan.graph.name}: {'; '.join(found)}",
            "Another precision may be readable: --precision fp32. Else export the bundle again with this version.",
        )
    config = builder.create_builder_config()
    strong = configure(trt, config, network, plan)
    attentions = attentions_of(trt, network)
    extra = break_fusion(trt, network) if plan.break_fusion else ()
    cache = api.use_timing_cache(config, plan.timing_cache)
    monitor = api.attach_monitor(
        trt, config, lambda name, steps: going_on(on_phase(name, steps)), lambda: going_on(on_step())
    )
    serialized = builder.build_serialized_network(network, config)
    del monitor
    if not running:
        raise BuildCanceled(f"the build of {plan.graph.name} was canceled; nothing was kept")
    if serialized is None:
        raise EngineBuildError(
            f"TensorRT {trt.__version__} built no engine of {plan.graph.name}: {log.said()}",
            "Out of memory? Lower --workspace, close other programs, add swap. See: cdm-export doctor",
        )
    if cache is not None and plan.timing_cache is not None:
        write_atomically(plan.timing_cache, bytes(cache.serialize()))
    return Built(
        plan=bytes(serialized),
        typing="strong" if strong else "legacy",
        tf32=bool(config.get_flag(trt.BuilderFlag.TF32)),
        workspace=int(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)),
        attentions=attentions,
        extra_outputs=extra,
        seconds=time.perf_counter() - started,
    )


def configure(trt: Any, config: Any, network: Any, plan: BuildPlan) -> bool:
    """Set everything the engine depends on; returns whether the network is strongly typed.

    TF32 is off unless it is the precision: islands are float32 because they need it.
    """
    if plan.precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if plan.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace)
    config.builder_optimization_level = plan.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    strong = api.is_strongly_typed(trt)
    if not strong:
        precision_plan = plan.precision_plan
        api.set_legacy_types(
            trt,
            config,
            network,
            plan.precision,
            lambda name: precision_plan is not None and precision_plan.computes_in_fp32(module_of(name)),
        )
    return strong


def attentions_of(trt: Any, network: Any) -> tuple[Attention, ...]:
    """Every attention core of the network, by its Softmax."""
    found = []
    for layer in _softmaxes(trt, network):
        tensor = layer.get_output(0)
        width = _BYTES.get(api.data_type(tensor.dtype), 4)
        found.append(Attention(layer.name, math.prod(api.shape(tensor.shape)) * width))
    return tuple(found)


def break_fusion(trt: Any, network: Any) -> tuple[str, ...]:
    """Mark the probabilities of every attention as outputs; returns their names.

    A kernel that keeps them to itself can then not be chosen. Delete when no supported TensorRT has the fault that
    ``known_issues.py`` gives for it.
    """
    names = []
    for layer in _softmaxes(trt, network):
        tensor = layer.get_output(0)
        network.mark_output(tensor)
        names.append(str(tensor.name))
    return tuple(names)


def _softmaxes(trt: Any, network: Any) -> list[Any]:
    """Those whose result a matrix product reads, whatever moves or casts it on the way: another Softmax weighs
    disparities, say, and is fused with nothing.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    read_by: dict[str, list[Any]] = {}
    for layer in layers:
        for index in range(layer.num_inputs):
            tensor = layer.get_input(index)
            if tensor is not None:  # an optional input that is not there
                read_by.setdefault(str(tensor.name), []).append(layer)
    kind = trt.LayerType
    moving = (kind.SHUFFLE, kind.CAST, kind.IDENTITY)

    def multiplied(layer: Any) -> bool:
        readers = read_by.get(str(layer.get_output(0).name), ())
        return any(
            reader.type == kind.MATRIX_MULTIPLY or (reader.type in moving and multiplied(reader)) for reader in readers
        )

    found = [layer for layer in layers if layer.type == kind.SOFTMAX]
    return [layer for layer in found if len(layer.get_output(0).shape) == _ATTENTION_RANK and multiplied(layer)]
