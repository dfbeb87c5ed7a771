"""The doctor's look at NVIDIA machines: driver, GPU, Jetson, power mode, TensorRT, CUDA's functions, memory."""

import shutil
import subprocess

from cdm_export.doctor.check import CheckResult
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.cuda_memory import require_cuda
from cdm_export.runtimes.errors import BackendUnavailable, DriverMissing
from cdm_export.runtimes.host import version_of
from cdm_export.runtimes.nvidia import available_memory, driver_cuda, find_gpu, jetson_module, l4t_release
from cdm_export.tensorrt.memory import build_memory

_VITL_GRAPH = 1_330_000_000
"""Bytes of cdm-vitl's fp16 graph, the largest that is published."""
_JETPACKS = (("35.", "5.1"), ("36.3", "6.0"), ("36.4.0", "6.1"), ("36.", "6.2"), ("38.", "7.0 or 7.1"), ("39.", "7.2"))
"""Release of Jetson Linux, by its beginning, and the JetPack that has it."""
_RECOMMENDED_L4T = 36


def nvidia_checks() -> list[CheckResult]:
    """Everything that concerns NVIDIA; short where there is none."""
    results = [_driver(), *_jetson()]
    if results[0].status == "ok":
        results += [_cuda_functions(), _memory()]
    return [*results, *_tensorrt()]


def jetpack(release: str) -> str:
    """JetPack of a release of Jetson Linux; ``unknown`` when it is newer than this table."""
    return next((name for beginning, name in _JETPACKS if release.startswith(beginning)), "unknown")


def _driver() -> CheckResult:
    """Ask the driver itself; a toolkit of another major version reports the same as no driver at all."""
    try:
        cuda = driver_cuda()
        gpu = find_gpu()
    except DriverMissing as error:
        return CheckResult("CUDA driver", "missing", error.message)
    except BackendUnavailable as error:
        return CheckResult("CUDA driver", "problem", error.message, error.next_step)
    python = version_of("cuda-python") or version_of("cuda-bindings")
    major = int(cuda.split(".")[0])
    if python and int(python.split(".")[0]) > major:
        return CheckResult(
            "CUDA driver",
            "problem",
            f"the driver supports CUDA {cuda}, cuda-python is {python}: every call will look like 'no driver'",
            f"pip install 'cuda-python<{major + 1}'",
        )
    return CheckResult("CUDA driver", "ok", f"supports CUDA {cuda}; {gpu}, {gpu.memory / 2**30:.1f} GiB")


def _jetson() -> list[CheckResult]:
    release = l4t_release()
    if release is None:
        return []
    detail = f"{jetson_module() or 'Jetson'}, Jetson Linux {release} (JetPack {jetpack(release)})"
    old = int(release.split(".")[0]) < _RECOMMENDED_L4T
    module = CheckResult(
        "Jetson",
        "problem" if old else "ok",
        detail + (": its TensorRT cannot read our graphs" if old else ""),
        "Flash JetPack 6.2 or later" if old else "",
    )
    return [module, _power()]


def _power() -> CheckResult:
    if shutil.which("nvpmodel") is None:
        return CheckResult("power mode", "missing", "nvpmodel does not run here, as in a container")
    done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=False)
    mode = " ".join(line.strip() for line in done.stdout.splitlines() if "Power Mode" in line) or done.stderr.strip()
    fast = "MAXN" in mode
    return CheckResult(
        "power mode",
        "ok",
        mode or "not told",
        "" if fast else "For figures: sudo nvpmodel -p --verbose lists the modes, sudo jetson_clocks locks the clocks",
    )


def _cuda_functions() -> CheckResult:
    try:
        return CheckResult("CUDA functions", "ok", f"through {require_cuda().name}")
    except BackendUnavailable as error:
        return CheckResult("CUDA functions", "problem", error.message, error.next_step)


def _memory() -> CheckResult:
    gpu = find_gpu()
    if not gpu.integrated:
        return CheckResult("memory to build", "ok", f"the GPU has {gpu.memory / 2**30:.1f} GiB of its own")
    available, total = available_memory()
    needed = build_memory(_VITL_GRAPH, 1 << 30)
    detail = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB available; cdm-vitl takes about {needed / 2**30:.1f}"
    if available < needed:
        return CheckResult(
            "memory to build",
            "problem",
            f"{detail}: the build may be killed; cdm-vits takes about a quarter",
            "sudo systemctl isolate multi-user; and add swap",
        )
    return CheckResult("memory to build", "ok", detail)


def _tensorrt() -> list[CheckResult]:
    """Whether the libraries are there; they are not imported, which can end the process without a driver."""
    results = []
    for backend in (backend for backend in BACKENDS.values() if backend.engine):
        subject = f"backend {backend.name}"
        if backend.installed:
            results.append(
                CheckResult(subject, "ok", f"{backend.version or 'version unknown'}, engines: cdm-export build BUNDLE")
            )
        else:
            results.append(CheckResult(subject, "missing", f"{backend.library} is not installed", backend.install))
    return results
