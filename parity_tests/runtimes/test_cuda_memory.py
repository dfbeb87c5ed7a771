"""Both ways to the CUDA runtime answer in the same words; the libraries are stand-ins, the calls are ours."""

from types import SimpleNamespace

import pytest

from cdm_export.runtimes.cuda_memory import Cuda, CudaPython, LibCudart
from cdm_export.runtimes.errors import EngineRunError

STREAM, START, END = 0x7F00_0000_0001, 0x7F00_0000_0002, 0x7F00_0000_0003
"""Wider than 32 bits: handles must not be cut."""


class Library:
    """libcudart: results go through pointers, arguments are C values."""

    def __init__(self):
        self.events = iter((START, END))
        self.marked = []

    def cudaSetDevice(self, device):
        return 0

    def cudaStreamCreateWithFlags(self, stream, flags):
        stream._obj.value = STREAM
        return 0

    def cudaEventCreate(self, event):
        event._obj.value = next(self.events)
        return 0

    def cudaEventRecord(self, event, stream):
        self.marked.append((event.value, stream.value))
        return 0

    def cudaEventElapsedTime(self, milliseconds, start, end):
        if (start.value, end.value) != (START, END):
            return 400
        milliseconds._obj.value = 1.5
        return 0

    def cudaEventDestroy(self, event):
        self.marked.remove((event.value, STREAM))
        return 0

    def cudaStreamDestroy(self, stream):
        return 0


def package(library):
    """cuda-python over the same library: results are returned, handles are objects that are integers."""

    def returning(function, *arguments):
        out = SimpleNamespace(_obj=SimpleNamespace(value=None))
        return getattr(library, function)(out, *(SimpleNamespace(value=one) for one in arguments)), out._obj.value

    def plain(function, *arguments):
        return (getattr(library, function)(*(SimpleNamespace(value=one) for one in arguments)),)

    made = CudaPython.__new__(CudaPython)
    made.name = "cuda-python"
    names = dict.fromkeys(("cudaSetDevice", "cudaEventRecord", "cudaEventDestroy", "cudaStreamDestroy"), plain)
    names |= dict.fromkeys(("cudaStreamCreateWithFlags", "cudaEventCreate", "cudaEventElapsedTime"), returning)
    functions = {name: lambda *a, how=how, name=name: how(name, *a) for name, how in names.items()}
    made._cudart = SimpleNamespace(**functions)
    return made


@pytest.mark.parametrize("way", [LibCudart, package], ids=["libcudart", "cuda-python"])
def test_time_between_two_marks(way):
    library = Library()
    cuda = Cuda(way(library))
    start, end = cuda.event(), cuda.event()
    cuda.mark(start)
    cuda.mark(end)
    assert library.marked == [(START, STREAM), (END, STREAM)] and cuda.elapsed(start, end) == 1.5
    with pytest.raises(EngineRunError, match="cudaEventElapsedTime with error 400"):
        cuda.elapsed(end, start)
    cuda.close()
    assert not library.marked
