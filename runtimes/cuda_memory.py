"""What running an engine takes of CUDA: memory, one stream, one graph, marks in time.

Through cuda-python, else libcudart itself.

Both are asked in the same words: a function of the runtime's interface returns its error and its results. A Jetson has
libcudart from JetPack; on other machines one of the two comes with pip.
"""

import ctypes
import ctypes.util
import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

from cdm_export.runtimes.errors import BackendUnavailable, EngineRunError
from cdm_export.runtimes.install import install

_DOCTOR = "Does the driver support this CUDA? See: cdm-export doctor"
_NON_BLOCKING = 1
_MAPPED = 2
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPTURE_THREAD_LOCAL = 1
_SONAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_DLLS = ("cudart64_13.dll", "cudart64_12.dll")


def _install() -> str:
    """For a Jetson its JetPack's CUDA, elsewhere the newest."""
    return f"Add it: {install('jetpack6')} (JetPack 6); the extra jetpack7 for JetPack 7, tensorrt elsewhere."


class Cudart(Protocol):
    """Functions of the CUDA runtime by their own names; each returns ``(error, *results)``, error 0 being success."""

    name: str
    """What answers, for ``describe()``."""

    def call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """Call one; addresses and handles are integers."""
        ...


class CudaPython:
    """NVIDIA's package."""

    def __init__(self) -> None:
        """Raises ImportError when it is not installed."""
        try:
            import cuda.bindings.runtime as cudart
        except ImportError:
            from cuda import cudart  # cuda-python before 12.6
        self._cudart = cudart
        self.name = "cuda-python"

    def call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """Enumerations become what the package wants, handles integers."""
        cudart = self._cudart
        if function == "cudaMemcpyAsync":
            *others, kind, stream = arguments
            arguments = (*others, cudart.cudaMemcpyKind(kind), stream)
        elif function == "cudaStreamBeginCapture":
            stream, mode = arguments
            arguments = (stream, cudart.cudaStreamCaptureMode(mode))
        error, *results = getattr(cudart, function)(*arguments)
        # What failed has None for results; a handle becomes an integer, a time stays what it is.
        return (int(error), *(result if isinstance(result, float) else int(result or 0) for result in results))


_RESULTS: dict[str, tuple[Any, ...]] = {
    "cudaMalloc": (ctypes.c_void_p,),
    "cudaHostAlloc": (ctypes.c_void_p,),
    "cudaHostGetDevicePointer": (ctypes.c_void_p,),
    "cudaStreamCreateWithFlags": (ctypes.c_void_p,),
    "cudaStreamEndCapture": (ctypes.c_void_p,),
    "cudaEventCreate": (ctypes.c_void_p,),
    "cudaEventElapsedTime": (ctypes.c_float,),
    "cudaGraphInstantiateWithFlags": (ctypes.c_void_p,),
    "cudaMemGetInfo": (ctypes.c_size_t, ctypes.c_size_t),
    "cudaGetDeviceCount": (ctypes.c_int,),
    "cudaRuntimeGetVersion": (ctypes.c_int,),
}
"""Functions with results, which the library writes through pointers."""
_RESULTS_LAST = frozenset({"cudaStreamEndCapture"})
"""Those that take the pointers after the arguments."""
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (ctypes.c_int,),
    "cudaMalloc": (ctypes.c_size_t,),
    "cudaFree": (ctypes.c_void_p,),
    "cudaHostAlloc": (ctypes.c_size_t, ctypes.c_uint),
    "cudaFreeHost": (ctypes.c_void_p,),
    "cudaHostGetDevicePointer": (ctypes.c_void_p, ctypes.c_uint),
    "cudaMemcpyAsync": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
    "cudaStreamCreateWithFlags": (ctypes.c_uint,),
    "cudaStreamDestroy": (ctypes.c_void_p,),
    "cudaStreamSynchronize": (ctypes.c_void_p,),
    "cudaStreamBeginCapture": (ctypes.c_void_p, ctypes.c_int),
    "cudaStreamEndCapture": (ctypes.c_void_p,),
    "cudaEventCreate": (),
    "cudaEventRecord": (ctypes.c_void_p, ctypes.c_void_p),
    "cudaEventElapsedTime": (ctypes.c_void_p, ctypes.c_void_p),
    "cudaEventDestroy": (ctypes.c_void_p,),
    "cudaGraphInstantiateWithFlags": (ctypes.c_void_p, ctypes.c_ulonglong),
    "cudaGraphLaunch": (ctypes.c_void_p, ctypes.c_void_p),
    "cudaGraphDestroy": (ctypes.c_void_p,),
    "cudaGraphExecDestroy": (ctypes.c_void_p,),
    "cudaMemGetInfo": (),
    "cudaGetDeviceCount": (),
    "cudaRuntimeGetVersion": (),
}
"""Types of what goes in; without them an address would be cut to 32 bits."""


class LibCudart:
    """The shared library, by hand."""

    def __init__(self, library: Any = None) -> None:
        """``library``: an opened libcudart. Raises OSError when none is found."""
        self._library = library or _open_cudart()
        self.name = "libcudart"

    def call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """Results come back in order, as integers; times as float."""
        given = [kind(value) for kind, value in zip(_ARGUMENTS[function], arguments, strict=True)]
        results = [kind() for kind in _RESULTS.get(function, ())]
        pointers = [ctypes.byref(result) for result in results]
        ordered = [*given, *pointers] if function in _RESULTS_LAST else [*pointers, *given]
        error = getattr(self._library, function)(*ordered)
        return (int(error), *(result.value or 0 for result in results))


def _open_cudart() -> Any:
    names = list(_DLLS if sys.platform == "win32" else _SONAMES)
    if found := ctypes.util.find_library("cudart"):
        names.append(found)
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"none of {', '.join(names)} is on the library path")


@functools.cache
def require_cuda() -> Cudart:
    """What answers for CUDA here. Raises BackendUnavailable when neither is to be had."""
    reasons = []
    openers: tuple[Callable[[], Cudart], ...] = (CudaPython, LibCudart)
    for opener in openers:
        try:
            return opener()
        except Exception as error:  # a package of another CUDA major fails in its own ways
            reasons.append(str(error))
    raise BackendUnavailable(f"neither cuda-python nor libcudart can be loaded ({'; '.join(reasons)})", _install())


class Cuda:
    """One stream, and everything allocated for it; ``close`` gives it all back."""

    def __init__(self, cudart: Cudart) -> None:
        """Raises BackendUnavailable when the device cannot be had."""
        self._cudart = cudart
        self._release: list[Callable[[], None]] = []
        try:
            self._do("cudaSetDevice", 0)
            self.stream = self._do("cudaStreamCreateWithFlags", _NON_BLOCKING)[0]
        except EngineRunError as error:
            raise BackendUnavailable(f"CUDA does not start ({cudart.name}): {error.message}", _DOCTOR) from error
        self._release.append(lambda: self._quietly("cudaStreamDestroy", self.stream))

    @property
    def name(self) -> str:
        """What answers."""
        return self._cudart.name

    def device_buffer(self, size: int) -> int:
        """Address of ``size`` bytes on the device."""
        address = int(self._do("cudaMalloc", max(size, 1))[0])
        self._release.append(lambda: self._quietly("cudaFree", address))
        return address

    def pinned_buffer(self, size: int) -> int:
        """Address of ``size`` bytes of main memory that the device can reach without a detour."""
        address = int(self._do("cudaHostAlloc", max(size, 1), _MAPPED)[0])
        self._release.append(lambda: self._quietly("cudaFreeHost", address))
        return address

    def seen_by_device(self, pinned: int) -> int:
        """The device's address of a pinned buffer: no copy where both share their memory."""
        return int(self._do("cudaHostGetDevicePointer", pinned, 0)[0])

    def to_device(self, device: int, pinned: int, size: int) -> None:
        """Copy, in the stream's order."""
        self._do("cudaMemcpyAsync", device, pinned, size, _HOST_TO_DEVICE, self.stream)

    def to_host(self, pinned: int, device: int, size: int) -> None:
        """Copy back, in the stream's order."""
        self._do("cudaMemcpyAsync", pinned, device, size, _DEVICE_TO_HOST, self.stream)

    def wait(self) -> None:
        """Until everything given to the stream is done. Raises EngineRunError for what failed meanwhile."""
        self._do("cudaStreamSynchronize", self.stream)

    def event(self) -> int:
        """A mark that can be put into the stream again and again; the device notes the time when it gets there."""
        event = int(self._do("cudaEventCreate")[0])
        self._release.append(lambda: self._quietly("cudaEventDestroy", event))
        return event

    def mark(self, event: int) -> None:
        """Put a mark after everything given to the stream so far."""
        self._do("cudaEventRecord", event, self.stream)

    def elapsed(self, start: int, end: int) -> float:
        """Milliseconds between two marks by the device's clock; after ``wait``."""
        return float(self._do("cudaEventElapsedTime", start, end)[0])

    def capture(self, work: Callable[[], None]) -> int:
        """What ``work`` gives to the stream, as a graph that ``launch`` repeats."""
        self._do("cudaStreamBeginCapture", self.stream, _CAPTURE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            self._cudart.call("cudaStreamEndCapture", self.stream)  # a stream left capturing is of no use
            raise
        graph = self._do("cudaStreamEndCapture", self.stream)[0]
        try:
            executable = int(self._do("cudaGraphInstantiateWithFlags", graph, 0)[0])
        finally:
            self._quietly("cudaGraphDestroy", graph)
        self._release.append(lambda: self._quietly("cudaGraphExecDestroy", executable))
        return executable

    def launch(self, graph: int) -> None:
        """Give a captured graph to the stream."""
        self._do("cudaGraphLaunch", graph, self.stream)

    def close(self) -> None:
        """Give everything back, newest first; calling again is harmless."""
        while self._release:
            self._release.pop()()

    def _do(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        error, *results = self._cudart.call(function, *arguments)
        if error:
            raise EngineRunError(
                f"CUDA answers {function} with error {error}", "Out of memory or a fault of the device: dmesg | tail"
            )
        return tuple(results)

    def _quietly(self, function: str, *arguments: Any) -> None:
        self._cudart.call(function, *arguments)
