"""What this machine can build and run, and the exact command that adds the rest. Nothing heavy is imported."""

import platform
import shutil

from cdm_export.doctor.check import CheckResult
from cdm_export.doctor.nvidia import nvidia_checks
from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.cache import cache_dir
from cdm_export.runtimes.host import cpu_features, cpu_name, usable_cpus, version_of
from cdm_export.runtimes.install import install
from cdm_export.runtimes.nvidia import available_memory

REDUCED_PRECISION = "reduced precision"
"""Subject of the check of what the CPU computes faster than float32."""
_FAST = {
    "BF16": {"avx512_bf16", "amx_bf16", "bf16"},
    "FP16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    "INT8": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"},
}
"""Instructions of which any one makes a precision fast; without them libraries compute in float32 with casts around."""
_EXPORT = ("torch", "onnx", "onnxscript", "safetensors", "scikit-image")


def examine() -> list[CheckResult]:
    """Look at everything; never raises for what it finds."""
    return [
        _machine(),
        _reduced_precision(),
        _memory(),
        _disk(),
        _opencv(),
        *_backends(),
        _export(),
        *nvidia_checks(),
        *_conflicts(),
    ]


def _machine() -> CheckResult:
    fast = [name for name in ("avx512_bf16", "avx512_vnni", "amx_tile", "asimddp", "i8mm") if name in cpu_features()]
    return CheckResult(
        "machine",
        "ok",
        f"{cpu_name()}, {usable_cpus()} usable CPU(s), {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}{', ' + ' '.join(fast) if fast else ''}",
    )


def _reduced_precision() -> CheckResult:
    fast = [name for name, flags in _FAST.items() if flags & cpu_features()]
    slow = [name for name in _FAST if name not in fast]
    if not slow:
        return CheckResult(REDUCED_PRECISION, "ok", f"the CPU has instructions for {', '.join(fast)}")
    return CheckResult(
        REDUCED_PRECISION,
        "missing",
        f"the CPU has no instructions for {', '.join(slow)}: such graphs are right on it, and rarely faster than "
        f"FP32{'; it has them for ' + ', '.join(fast) if fast else ''}",
        "cdm-export bench BUNDLE",
    )


def _memory() -> CheckResult:
    free, total = (size / 2**30 for size in available_memory())
    if not total:
        return CheckResult("memory", "ok", "not told by this system")
    return CheckResult("memory", "ok", f"{free:.1f} of {total:.1f} GiB available; exporting cdm-vitl takes about 4 GiB")


def _disk() -> CheckResult:
    place = next(path for path in (cache_dir(), *cache_dir().parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    return CheckResult(
        "cache",
        "ok" if free >= 4 else "problem",
        f"{free:.1f} GiB free under {cache_dir()} (move it with $CDM_EXPORT_CACHE)",
    )


def _opencv() -> CheckResult:
    import cv2

    build = cv2.getBuildInformation()
    camera = next((line for line in build.splitlines() if "GStreamer" in line), "")
    if platform.machine() == "aarch64" and "YES" not in camera:
        return CheckResult(
            "opencv",
            "problem",
            f"OpenCV {cv2.__version__} has no GStreamer: the pip wheel hides JetPack's build, and CSI cameras are gone",
            "pip uninstall opencv-python, in an environment made with --system-site-packages",
        )
    return CheckResult("opencv", "ok", f"OpenCV {cv2.__version__}")


def _backends() -> list[CheckResult]:
    results = []
    for backend in (backend for backend in BACKENDS.values() if not backend.engine):
        library, version = backend.library, backend.version
        subject = f"backend {backend.name}"
        if not backend.installed:
            results.append(CheckResult(subject, "missing", f"{library} is not installed", backend.install))
        elif backend.device == "apple" and platform.system() != "Darwin":
            detail = f"{library} {version} makes packages here; a Mac runs them"
            results.append(
                CheckResult(subject, "missing", detail, "cdm-export verify BUNDLE --backend coreml-reference")
            )
        elif backend.device == "cuda" and not _has_provider(backend.name):
            results.append(
                CheckResult(
                    subject,
                    "missing",
                    f"{library} {version} is a build without it",
                    f"pip uninstall {library} && {backend.install}",
                )
            )
        else:
            results.append(CheckResult(subject, "ok", f"{library} {version}, runs {_precisions(backend)}"))
    return results


def _precisions(backend: Backend) -> str:
    """What it computes on this CPU: OpenVINO's BF16 is refused where the CPU has none."""
    slow = {"bf16", "int8-bf16"} if backend.name == "openvino" and not _FAST["BF16"] & cpu_features() else set()
    return ", ".join(precision for precision in backend.precisions if precision not in slow)


def _has_provider(backend: str) -> bool:
    from cdm_export.runtimes.onnxruntime import PROVIDERS
    from cdm_export.runtimes.telemetry import import_onnxruntime

    return PROVIDERS[backend] in import_onnxruntime().get_available_providers()


def missing_to_export() -> list[str]:
    """Distributions that exporting needs and this environment lacks."""
    return [name for name in _EXPORT if version_of(name) is None]


def _export() -> CheckResult:
    if missing := missing_to_export():
        return CheckResult("export", "missing", f"exporting also needs {', '.join(missing)}", install("export", "cpu"))
    return CheckResult("export", "ok", ", ".join(f"{name} {version_of(name)}" for name in _EXPORT))


def _conflicts() -> list[CheckResult]:
    """The CPU and GPU builds of ONNX Runtime install the same files over each other."""
    if version_of("onnxruntime") and version_of("onnxruntime-gpu"):
        return [
            CheckResult(
                "onnxruntime",
                "problem",
                "onnxruntime and onnxruntime-gpu are both installed: whichever came last wins, file by file",
                f"pip uninstall onnxruntime onnxruntime-gpu && {install('gpu')}",
            )
        ]
    return []
