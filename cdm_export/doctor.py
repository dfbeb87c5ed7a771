"""What this machine can build and run, and the exact command that adds the rest. Nothing heavy is imported."""

import ctypes
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from runtimes.backends import BACKENDS
from runtimes.cache import cache_dir
from runtimes.host import cpu_features, cpu_name, usable_cpus, version_of

INSTALL_EXPORT = "pip install 'cdm-export[export,cpu]'"
"""Command that adds everything exporting needs."""
_EXPORT = ("torch", "onnx", "onnxscript", "safetensors", "scikit-image")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    subject: str
    """What was looked at."""
    status: str
    """``ok``, ``missing`` (an option that is not installed), or ``problem`` (something is wrong)."""
    detail: str
    """What was found."""
    command: str = ""
    """What to type; empty when there is nothing to do."""


def examine() -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    return [_machine(), _memory(), _disk(), _opencv(), *_backends(), _export(), _cuda(), *_conflicts()]


def _machine() -> Finding:
    fast = [name for name in ("avx512_bf16", "avx512_vnni", "amx_tile", "asimddp", "i8mm") if name in cpu_features()]
    return Finding(
        "machine",
        "ok",
        f"{cpu_name()}, {usable_cpus()} usable processor(s), {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}{', ' + ' '.join(fast) if fast else ''}",
    )


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        free, total = kib["MemAvailable"] / 2**20, kib["MemTotal"] / 2**20
    except (OSError, KeyError, ValueError, IndexError):
        return Finding("memory", "ok", "not told by this system")
    return Finding("memory", "ok", f"{free:.1f} of {total:.1f} GiB available; exporting cdm-vitl takes about 4 GiB")


def _disk() -> Finding:
    place = next(path for path in (cache_dir(), *cache_dir().parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    status = "ok" if free >= 4 else "problem"
    return Finding("cache", status, f"{free:.1f} GiB free under {cache_dir()} (move it with $CDM_EXPORT_CACHE)")


def _opencv() -> Finding:
    import cv2

    build = cv2.getBuildInformation()
    camera = next((line for line in build.splitlines() if "GStreamer" in line), "")
    if platform.machine() == "aarch64" and "YES" not in camera:
        return Finding(
            "opencv",
            "problem",
            f"OpenCV {cv2.__version__} has no GStreamer: the pip wheel hides JetPack's build, and CSI cameras are gone",
            "pip uninstall opencv-python, in an environment made with --system-site-packages",
        )
    return Finding("opencv", "ok", f"OpenCV {cv2.__version__}")


def _backends() -> list[Finding]:
    findings = []
    for backend in BACKENDS.values():
        library, version = backend.library, backend.version
        subject = f"backend {backend.name}"
        if not backend.installed:
            findings.append(Finding(subject, "missing", f"{library} is not installed", backend.install))
        elif backend.device == "apple" and platform.system() != "Darwin":
            detail = f"{library} {version} makes packages here; a Mac runs them"
            findings.append(Finding(subject, "missing", detail, "cdm-export verify BUNDLE --backend coreml-reference"))
        elif backend.device == "cuda" and not _has_cuda_provider():
            findings.append(
                Finding(
                    subject,
                    "missing",
                    f"{library} {version} is the CPU build",
                    f"pip uninstall {library} && {backend.install}",
                )
            )
        else:
            findings.append(Finding(subject, "ok", f"{library} {version}, runs {', '.join(backend.precisions)}"))
    return findings


def _has_cuda_provider() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def missing_to_export() -> list[str]:
    """Distributions that exporting needs and this environment lacks."""
    return [name for name in _EXPORT if version_of(name) is None]


def _export() -> Finding:
    if missing := missing_to_export():
        return Finding("export", "missing", f"exporting also needs {', '.join(missing)}", INSTALL_EXPORT)
    return Finding("export", "ok", ", ".join(f"{name} {version_of(name)}" for name in _EXPORT))


def _cuda() -> Finding:
    """Ask the driver itself; a toolkit of another major version reports the same as no driver at all."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return Finding("CUDA driver", "missing", "no NVIDIA driver on this machine")
    code = driver.cuInit(0)
    if code != 0:
        return Finding("CUDA driver", "problem", f"the driver is installed but cuInit fails with error {code}")
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    python = version_of("cuda-python") or version_of("cuda-bindings")
    if python and int(python.split(".")[0]) > major:
        return Finding(
            "CUDA driver",
            "problem",
            f"the driver supports CUDA {major}.{minor}, cuda-python is {python}: every call will look like 'no driver'",
            f"pip install 'cuda-python<{major + 1}'",
        )
    return Finding("CUDA driver", "ok", f"supports CUDA {major}.{minor}")


def _conflicts() -> list[Finding]:
    """The CPU and GPU builds of ONNX Runtime install the same files over each other."""
    if version_of("onnxruntime") and version_of("onnxruntime-gpu"):
        return [
            Finding(
                "onnxruntime",
                "problem",
                "onnxruntime and onnxruntime-gpu are both installed: whichever came last wins, file by file",
                "pip uninstall onnxruntime onnxruntime-gpu && pip install 'cdm-export[gpu]'",
            )
        ]
    return []
