"""TensorRT and TensorRT-RTX: an engine that ``build`` made, on its own stream, from pinned buffers, as a CUDA graph.

Every call is timed by events between its stages, which cost microseconds. Copies stay outside the graph for that.

The driver is asked before the library is touched, and the engine's record compared before the library sees the engine:
neither answers politely to what it cannot use.
"""

import ctypes
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes import tensorrt_api as api
from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.cuda_memory import Cuda, Cudart, require_cuda
from cdm_export.runtimes.engine_record import EngineRecord, Machine
from cdm_export.runtimes.engines import check_engine, read_record, rebuild
from cdm_export.runtimes.errors import BundleError, CdmExportError, EngineRunError
from cdm_export.runtimes.nvidia import Gpu, find_gpu, system_name
from cdm_export.runtimes.runtime import Description, Tensors, check_interface
from cdm_export.runtimes.tensorrt_api import Log

_ITEM_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2}
_PROVIDERS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class _Bound:
    """A tensor of the contract and where it lies."""

    name: str
    host: NDArray[np.float32]
    """The pinned buffer, as an array of the tensor's shape."""
    pinned: int
    device: int
    """Equal memory on an integrated GPU, a copy's target or source elsewhere."""


_ENGINE = "engine"
_STAGES = ("host to device", _ENGINE, "device to host")
"""Between four marks; where memory is shared there are no copies, and the engine is all."""


class TensorRt:
    """One engine with its context; outputs are fresh arrays."""

    reuses_outputs = False

    def __init__(
        self, trt: Any, plan: bytes, record: EngineRecord, backend: Backend, gpu: Gpu, cudart: Cudart, log: Log
    ) -> None:
        """Everything is allocated here. Raises BundleError when the library refuses the engine or its interface is not
        the contract's, EngineRunError when the device has no room.
        """
        self.contract = record.contract
        self._trt = trt
        self._record = record
        self._backend = backend
        self._gpu = gpu
        self._log = log
        self._graph: int | None = None
        self._graph_says = "not tried yet"
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._scratch = 0
        self._cuda = Cuda(cudart)
        try:
            self._marks = [self._cuda.event() for _ in range(len(_STAGES) + 1)]
            self._open(trt, plan)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once. Raises EngineRunError when the device fails."""
        for bound in self._inputs:
            np.copyto(bound.host, inputs[bound.name])
        results = self._run()
        if self._graph_says == "not tried yet":
            self._try_graph(results)
        return results

    def device_stages(self) -> dict[str, float]:
        """Milliseconds of the last call by the device's clock: copies where there are any, and the engine."""
        pairs = zip(_STAGES, itertools.pairwise(self._marks), strict=True)
        return {
            stage: self._cuda.elapsed(*marks) for stage, marks in pairs if stage == _ENGINE or not self._gpu.integrated
        }

    def describe(self) -> Description:
        """The engine's evidence, and how it is launched."""
        evidence, version = self._record.layer_report, str(self._trt.__version__)
        return Description(
            backend=self._backend.name,
            precision=self._record.precision,
            device=str(self._gpu),
            provider=_PROVIDERS[self._backend.name],
            threads=0,
            versions={self._backend.name: version, "cuda driver": self._gpu.cuda},
            executed={
                "engine": self._record.engine.sha256[:16],
                "kernels_by_kind": evidence.by_kind,
                "fused_attention": evidence.fused_attention,
                "workaround": self._record.settings.workaround,
                "cuda_graph": self._graph_says,
                "zero_copy": self._gpu.integrated,
                "memory_through": self._cuda.name,
                "scratch_bytes": self._scratch,
            },
        )

    def close(self) -> None:
        """Free context, engine, stream and memory."""
        self._graph = None
        self._context = self._engine = self._runtime = None  # before the memory they point to
        self._cuda.close()

    def _open(self, trt: Any, plan: bytes) -> None:
        self._runtime = trt.Runtime(self._log.logger(trt))
        self._engine = engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BundleError(
                f"{_PROVIDERS[self._backend.name]} {trt.__version__} refuses the engine: {self._log.said()}"
            )
        self._scratch = api.device_memory(engine)
        self._context = context = engine.create_execution_context()
        if context is None:
            raise EngineRunError(
                f"there is no room to run the engine, which takes {self._scratch / 1e6:,.0f} MB beside its weights: "
                f"{self._log.said()}",
                "Close other programs, or build with a lower --workspace.",
            )
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        extra = set(self._record.settings.extra_outputs)
        got = {name: api.shape(engine.get_tensor_shape(name)) for name in names if name not in extra}
        check_interface(got, self.contract, Path(self._record.engine.path))
        for spec in (*self.contract.inputs, *self.contract.outputs):
            kind = api.data_type(engine.get_tensor_dtype(spec.name))
            if kind != "FLOAT":
                raise BundleError(f"tensor '{spec.name}' of the engine is {kind}, the contract says float32")
        self._inputs = [self._bind(spec.name, got[spec.name]) for spec in self.contract.inputs]
        self._outputs = [self._bind(spec.name, got[spec.name]) for spec in self.contract.outputs]
        for bound in self._inputs:
            context.set_input_shape(bound.name, got[bound.name])
        if unknown := context.infer_shapes():
            raise BundleError(f"the engine does not know the shapes of {', '.join(unknown)}: {self._log.said()}")
        for bound in (*self._inputs, *self._outputs):
            context.set_tensor_address(bound.name, bound.device)
        for name in sorted(extra & set(names)):
            kind = api.data_type(engine.get_tensor_dtype(name))
            size = math.prod(api.shape(engine.get_tensor_shape(name))) * _ITEM_BYTES.get(kind, 4)
            context.set_tensor_address(name, self._cuda.device_buffer(size))

    def _bind(self, name: str, shape: tuple[int, ...]) -> _Bound:
        size = 4 * math.prod(shape)
        pinned = self._cuda.pinned_buffer(size)
        host = np.ctypeslib.as_array((ctypes.c_float * (size // 4)).from_address(pinned)).reshape(shape)
        shared = self._gpu.integrated
        device = self._cuda.seen_by_device(pinned) if shared else self._cuda.device_buffer(size)
        return _Bound(name, host, pinned, device)

    def _run(self) -> dict[str, NDArray[np.float32]]:
        """What lies in the inputs' pinned buffers, through the engine, to the end."""
        start, copied, computed, end = self._marks
        self._cuda.mark(start)
        self._to_device(self._inputs)
        self._cuda.mark(copied)
        if self._graph is None:
            self._execute()
        else:
            self._cuda.launch(self._graph)
        self._cuda.mark(computed)
        if not self._gpu.integrated:
            for bound in self._outputs:
                self._cuda.to_host(bound.pinned, bound.device, bound.host.nbytes)
        self._cuda.mark(end)
        self._cuda.wait()
        return self._results()

    def _to_device(self, bounds: list[_Bound]) -> None:
        if not self._gpu.integrated:
            for bound in bounds:
                self._cuda.to_device(bound.device, bound.pinned, bound.host.nbytes)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineRunError(f"the engine did not run: {self._log.said()}", "See: cdm-export doctor")

    def _try_graph(self, eager: dict[str, NDArray[np.float32]]) -> None:
        """Capture what was just run and run it once more: it is used only when it gives the very same numbers."""
        try:
            self._graph = self._cuda.capture(self._execute)
            for bound in self._outputs:
                bound.host.fill(np.nan)
            self._to_device(self._outputs)  # what the eager run left there must not pass for the graph's
            again = self._run()
        except CdmExportError as error:
            self._graph, self._graph_says = None, f"off: {error.message}"
            return
        if all(np.array_equal(eager[name], again[name]) for name in eager):  # NaN equals nothing
            self._graph_says = "on, equal to the eager result"
        else:
            self._graph, self._graph_says = None, "off: its result differs from the eager one"

    def _results(self) -> dict[str, NDArray[np.float32]]:
        return {bound.name: bound.host.copy() for bound in self._outputs}


def load(path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> TensorRt:
    """Open an engine; ``path`` is the plan, its record lies beside it. ``threads`` means nothing on a GPU.

    Raises BackendUnavailable (no driver, no library, no CUDA functions, an engine of another machine), BundleError (an
    engine that failed, was changed or truncated, is for another contract, or is refused), EngineRunError (no room).
    """
    gpu = find_gpu()
    record = read_record(path.parent)
    trt = api.load_library(backend.name)
    here = Machine(
        backend="tensorrt-rtx" if backend.name == "tensorrt-rtx" else "tensorrt",
        version=str(trt.__version__),
        system=system_name(),
        gpu=gpu,
    )
    check_engine(path, record, here)
    again = rebuild(path, f" --target {backend.name} --precision {precision}")
    if record.contract != contract or record.precision != precision:
        raise BundleError(
            f"{path} is an engine of {record.contract.model} in {record.precision} with another contract than asked "
            f"for ({contract.model}, {precision})",
            again,
        )
    try:
        return TensorRt(trt, path.read_bytes(), record, backend, gpu, require_cuda(), Log())
    except BundleError as refused:
        raise BundleError(refused.message, refused.next_step or again) from refused
