"""TensorRT's Python interface from 8.6 to 11.4, and TensorRT-RTX: every difference between them is in this file.

Differences are found by asking for the member, not by comparing version numbers: TensorRT-RTX numbers its releases from
1. The ``trt`` module is always a parameter, so that one code serves both families, and tests can give a third.
"""

import importlib
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdm_export.runtimes.errors import BackendUnavailable, EngineBuildError

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
_KEPT = 50
"""Messages of a kind that are kept: a camera runs for weeks."""
_JETPACK = "Use JetPack 6.2 or later (TensorRT 10.3), or run this bundle with --backend onnxruntime."


def load_library(backend: str) -> Any:
    """The ``trt`` module of a backend.

    Raises BackendUnavailable when it cannot be imported, or is older than 8.6.
    """
    name = _MODULES[backend]
    try:
        trt = importlib.import_module(name)
    except Exception as error:  # a missing shared library is an OSError or an ImportError, a mismatch anything
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendUnavailable(
            f"the package '{name}' is here but cannot be imported: {first}",
            "On a Jetson: make the environment with python3 -m venv --system-site-packages. See: cdm-export doctor",
        ) from error
    require_supported(trt, backend)
    return trt


def require_supported(trt: Any, backend: str) -> None:
    """Raise BackendUnavailable for a TensorRT whose parser cannot read our graphs."""
    if backend == "tensorrt" and version_tuple(trt.__version__) < (8, 6):
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} is not supported: its parser has no LayerNormalization, which every graph of "
            "a bundle uses; 8.6 is the oldest that has",
            _JETPACK,
        )


def version_tuple(version: str) -> tuple[int, ...]:
    """``"10.3.0.30"`` -> ``(10, 3, 0, 30)``."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def is_strongly_typed(trt: Any) -> bool:
    """Whether networks can be built in exactly the types of their graph; TensorRT 8.6 chooses types itself."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def creation_flags(trt: Any) -> int:
    """Flags of a network from an ONNX file: explicit batch where that has to be said, strong types where possible."""
    flags = 0
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):
        member = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if member is not None:
            flags |= 1 << int(member)
    return flags


def set_legacy_types(trt: Any, config: Any, network: Any, precision: str, is_island: Callable[[str], bool]) -> None:
    """TensorRT 8.6 only: half precision as a permission, held off the modules that must stay float32.

    Raises EngineBuildError for a precision it cannot be told.
    """
    if precision in ("fp32", "tf32"):
        return
    if precision != "fp16":
        raise EngineBuildError(
            f"TensorRT {trt.__version__} has no strong types: it builds fp32, tf32 and fp16, not {precision}", _JETPACK
        )
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if not is_island(layer.name):
            continue
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        if all(tensor.dtype == trt.DataType.FLOAT for tensor in outputs):
            layer.precision = trt.DataType.FLOAT
            for number in range(layer.num_outputs):
                layer.set_output_type(number, trt.DataType.FLOAT)


def attach_monitor(trt: Any, config: Any, on_phase: Callable[[str, int], bool], on_step: Callable[[], bool]) -> Any:
    """Report the builder's phases (name, steps) and steps; either callback returning False cancels the build.

    Returns the monitor, which has to outlive the build; None where the library has none (8.6).
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None
    depth: list[str] = []
    canceled = False

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 wants it called by name

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            nonlocal canceled
            depth.append(name)
            canceled = canceled or not on_phase(name, steps if len(depth) > 1 else 0)

        def step_complete(self, name: str, step: int) -> bool:
            nonlocal canceled
            canceled = canceled or not on_step()
            return not canceled

        def phase_finish(self, name: str) -> None:
            if name in depth:
                depth.remove(name)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor


def use_timing_cache(config: Any, path: Path | None) -> Any:
    """Measured tactics from an earlier build; returns the cache, None without a path.

    A cache the library will not have (of another version or GPU) is begun anew.
    """
    if path is None:
        return None
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def parser_errors(parser: Any) -> list[str]:
    """``NODE (OPERATOR): what is wrong`` for each of the parser's errors; 8.6 knows no names."""
    texts = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = getattr(error, "node_name", lambda: f"node {error.node()}")()  # noqa: B023
        operator = getattr(error, "node_operator", lambda: "")()
        texts.append(f"{name or 'the graph'}{f' ({operator})' if operator else ''}: {error.desc()}")
    return texts


def device_memory(engine: Any) -> int:
    """Bytes of scratch memory an execution context takes."""
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def shape(dimensions: Any) -> tuple[int, ...]:
    """A library's dimensions as a tuple."""
    return tuple(int(side) for side in dimensions)


def data_type(value: Any) -> str:
    """Name of an element type, without its class: ``HALF``, ``FLOAT``."""
    return str(value).rpartition(".")[2]


class Log:
    """The library's own words, kept; what is wrong is part of every error."""

    def __init__(self, keep_verbose: Callable[[str, str], object] = lambda severity, text: None) -> None:
        """``keep_verbose``: takes severity and text of every message."""
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self.warnings: deque[str] = deque(maxlen=_KEPT)
        self._keep = keep_verbose

    def take(self, severity: str, text: str) -> None:
        """One message."""
        self._keep(severity, text)
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING":
            self.warnings.append(text)

    def said(self) -> str:
        """What went wrong, in the library's words; a sentence when it said nothing."""
        return " | ".join(dict.fromkeys(self.errors)) or "it gave no reason"

    def logger(self, trt: Any) -> Any:
        """The logger object the library wants."""
        log = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 wants it called by name

            def log(self, severity: Any, message: str) -> None:
                log.take(data_type(severity), message)

        return Logger()
