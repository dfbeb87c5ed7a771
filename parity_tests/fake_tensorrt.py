"""Stand-ins for the TensorRT module and the CUDA runtime: memory is real, the network is a Python function.

They show that our side calls in the right order and gives everything back. They say nothing about a device.
"""

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class Severity(enum.Enum):
    ERROR = 1
    WARNING = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class FakeCudart:
    """Host memory for the device's, calls at once; inside a capture they are only written down."""

    name = "fake"

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams = 0
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.calls: list[str] = []
        self.clock = 0.0
        self.events: dict[int, float | None] = {}
        self.fail: dict[str, int] = {}

    def submit(self, work: Callable[[], None]) -> None:
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        self.calls.append(function)
        if self.fail.get(function):
            return (self.fail[function], 0)
        return getattr(self, function)(*arguments)

    def cudaSetDevice(self, device):
        return (0,)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == 1, "the default stream synchronizes with everything"
        self.streams += 1
        return (0, 77)

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return (0,)

    def cudaMalloc(self, size):
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return (0, ctypes.addressof(buffer))

    def cudaHostAlloc(self, size, flags):
        return self.cudaMalloc(size)

    def cudaFree(self, address):
        del self.memory[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaHostGetDevicePointer(self, address, flags):
        assert address in self.memory
        return (0, address)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == 77
        self.clock += {1: 1.0, 2: 2.0}[kind]
        self.submit(lambda: ctypes.memmove(target, source, size) and None)
        return (0,)

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.capturing = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        self.graphs[5] = self.capturing or []
        self.capturing = None
        return (0, 5)

    def cudaGraphInstantiateWithFlags(self, graph, flags):
        self.graphs[6] = self.graphs[graph]
        return (0, 6)

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (0,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaEventCreate(self):
        self.events[100 + len(self.events)] = None
        return (0, 99 + len(self.events))

    def cudaEventRecord(self, event, stream):
        assert stream == 77 and self.capturing is None, "an event inside a graph cannot be read"
        self.events[event] = self.clock
        return (0,)

    def cudaEventElapsedTime(self, start, end):
        return (0, self.events[end] - self.events[start])

    def cudaEventDestroy(self, event):
        del self.events[event]
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        for work in self.graphs[graph]:
            work()
        return (0,)


class FakeContext:
    def __init__(self, engine: "FakeEngine") -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name, shape):
        assert tuple(shape) == self.engine.tensors[name][0]
        return True

    def infer_shapes(self):
        return []

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == 77 and set(self.addresses) == set(self.engine.tensors)
        if self.engine.broken:
            self.engine.logger.log(Severity.ERROR, "Cask error in kernel")
            return False
        self.engine.cudart.submit(self._run)
        return True

    def _run(self):
        arrays = {
            name: np.ctypeslib.as_array(
                (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
            ).reshape(shape)
            for name, (shape, kind) in self.engine.tensors.items()
            if kind is DataType.FLOAT
        }
        self.engine.cudart.clock += 10
        self.engine.compute(arrays)


class FakeEngine:
    device_memory_size_v2 = 1000

    def __init__(self, cudart, tensors, compute):
        self.cudart, self.tensors, self.compute, self.broken, self.logger = cudart, tensors, compute, False, None

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_shape(self, name):
        return self.tensors[name][0]

    def get_tensor_dtype(self, name):
        return self.tensors[name][1]

    def create_execution_context(self):
        return FakeContext(self)


def fake_trt(engine: FakeEngine | None) -> Any:
    """A ``trt`` module that deserializes to ``engine``."""

    class Logger:
        def __init__(self) -> None:
            pass

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            if engine is None:
                self.logger.log(Severity.ERROR, "Version tag does not match")
            else:
                engine.logger = self.logger
            return engine

    return SimpleNamespace(__version__="10.3.0", ILogger=Logger, Runtime=Runtime, DataType=DataType)
