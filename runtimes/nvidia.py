"""The NVIDIA GPU of this machine, asked of the driver alone.

TensorRT takes the whole process down on a machine without a working driver, so this is asked before it is touched.
"""

import ctypes
import functools
import platform
import re
import sys
from pathlib import Path

from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import BackendUnavailable, DriverMissing

_ATTRIBUTES = {"major": 75, "minor": 76, "integrated": 18}
"""CUdevice_attribute numbers of the driver's interface."""
_NO_DEVICE = 100
_RELEASE = Path("/etc/nv_tegra_release")
_MODULE = Path("/proc/device-tree/model")


class Gpu(Record):
    """One GPU and the driver before it."""

    name: str
    """As the driver names it, e.g. ``Orin``."""
    compute_capability: str
    """``major.minor``, e.g. ``8.7``."""
    integrated: bool
    """Whether it shares the CPU's memory, as on a Jetson."""
    memory: int
    """Bytes in all."""
    cuda: str
    """Newest CUDA the driver supports, e.g. ``12.6``."""

    def __str__(self) -> str:
        return f"{self.name} (sm{self.compute_capability.replace('.', '')}, CUDA {self.cuda})"


@functools.cache
def find_gpu() -> Gpu:
    """The first GPU that programs may see.

    Raises BackendUnavailable when there is no driver, the driver does not start, or it shows no GPU.
    """
    driver = _driver()
    count = ctypes.c_int()
    _check(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise BackendUnavailable("the NVIDIA driver shows no GPU", "Is CUDA_VISIBLE_DEVICES set? See: nvidia-smi")
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    _check(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _check(driver, "cuDeviceGetName", name, len(name), device)
    _check(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    found = {}
    for attribute, number in _ATTRIBUTES.items():
        value = ctypes.c_int()
        _check(driver, "cuDeviceGetAttribute", ctypes.byref(value), number, device)
        found[attribute] = value.value
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{found['major']}.{found['minor']}",
        integrated=bool(found["integrated"]),
        memory=memory.value,
        cuda=driver_cuda(),
    )


def gpu_or_none() -> Gpu | None:
    """``find_gpu`` without the reason."""
    try:
        return find_gpu()
    except BackendUnavailable:
        return None


def driver_cuda() -> str:
    """Newest CUDA the driver supports, ``major.minor``. Raises BackendUnavailable without a working driver."""
    version = ctypes.c_int()
    _check(_driver(), "cuDriverGetVersion", ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def free_memory(gpu: Gpu) -> int:
    """Bytes a build may take now: of the shared memory on an integrated GPU, else of the GPU's own.

    Raises BackendUnavailable when the driver does not say.
    """
    if gpu.integrated:
        return available_memory()[0]
    driver = _driver()
    context, device = ctypes.c_void_p(), ctypes.c_int()
    _check(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _check(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        _check(driver, "cuCtxPushCurrent_v2", context)
        _check(driver, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        _check(driver, "cuCtxPopCurrent_v2", ctypes.byref(context))
        return free.value
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def available_memory() -> tuple[int, int]:
    """Bytes of main memory available and in all; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
        return kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    except (OSError, KeyError, ValueError):
        return 0, 0


def system_name() -> str:
    """What an engine is tied to besides GPU and TensorRT: ``L4T36.4.3`` on a Jetson, else e.g. ``linux_x86_64``."""
    release = l4t_release()
    return f"L4T{release}" if release else f"{sys.platform}_{platform.machine().lower()}"


def l4t_release(text: str | None = None) -> str | None:
    """Release of Jetson Linux, e.g. ``36.4.3``; None on other machines. ``text``: of ``/etc/nv_tegra_release``."""
    if text is None:
        try:
            text = _RELEASE.read_text()
        except OSError:
            return None
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def jetson_module() -> str | None:
    """Name of the Jetson module, e.g. ``NVIDIA Jetson Orin Nano``; None on other machines."""
    if l4t_release() is None:
        return None
    try:
        return _MODULE.read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        return None


@functools.cache
def _driver() -> ctypes.CDLL:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        raise DriverMissing(
            "there is no NVIDIA driver on this machine, and TensorRT needs one",
            "On a Jetson or an NVIDIA GPU: install the driver; elsewhere use --backend onnxruntime or openvino.",
        ) from None
    code = driver.cuInit(0)
    if code == _NO_DEVICE:
        raise BackendUnavailable("the NVIDIA driver shows no GPU", "Is CUDA_VISIBLE_DEVICES set? See: nvidia-smi")
    if code != 0:
        raise BackendUnavailable(
            f"the NVIDIA driver is installed but does not start: cuInit gives error {code}",
            "Is the GPU passed into this container? See: cdm-export doctor",
        )
    return driver


def _check(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = getattr(driver, function)(*arguments)
    if code != 0:
        raise BackendUnavailable(f"the NVIDIA driver answers {function} with error {code}", "See: nvidia-smi")
