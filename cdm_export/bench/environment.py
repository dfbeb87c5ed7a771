"""What a result was measured on, recorded with every result."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cdm_export
from cdm_export.runtimes.host import cpu_features, cpu_name, usable_cpus, version_of

_LIBRARIES = (
    "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx",
    "coremltools", "numpy", "opencv-python",
)  # fmt: skip
_FEATURES = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimddp", "i8mm"}
_CPUS = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")
_PACKAGE = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """Processor, memory, system, libraries, revision and time; JSON-ready. What is not to be had is not there."""
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cpu_features": sorted(cpu_features() & _FEATURES),
        "usable_cpus": usable_cpus(),
        "memory_gib": _memory_gib(),
        "governor": _read(_CPUS / "cpu0/cpufreq/scaling_governor"),
        "gpu": _command("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        "power_mode": _power_mode(_command("nvpmodel", "-q")),
        "system": f"{platform.system()} {platform.machine()}",
        "container": _container(),
        "python": platform.python_version(),
        "cdm_export": cdm_export.__version__,
        "libraries": {name: version for name in _LIBRARIES if (version := version_of(name))},
        "revision": _revision(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return {name: value for name, value in found.items() if value is not None}


def conditions() -> dict[str, Any]:
    """What changes while one measures: clocks, temperatures, load; taken before and after."""
    clocks = [
        round(int(text) / 1e3)
        for path in sorted(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        if (text := _read(path)) is not None
    ]
    temperatures = {
        f"{_read(zone / 'type')} {zone.name}": int(text) / 1e3
        for zone in sorted(_THERMAL.glob("thermal_zone*"))
        if (text := _read(zone / "temp")) is not None
    }
    found: dict[str, Any] = {
        "cpu_mhz": clocks or _cpuinfo_mhz(),
        "celsius": temperatures,
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": _command(
            "nvidia-smi", "--query-gpu=clocks.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active",
            "--format=csv,noheader",
        ),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _cpuinfo_mhz() -> list[int]:
    """Virtual machines have no cpufreq, only this."""
    return [
        round(float(mhz)) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read(Path("/proc/cpuinfo")) or "", re.M)
    ]


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    return _read(Path("/run/systemd/container"))


def _power_mode(told: str | None) -> str | None:
    """Name of a Jetson's mode, from a line such as ``NV Power Mode: MAXN``."""
    found = re.search(r"Power Mode:\s*(\S+)", told or "")
    return found[1] if found else None


def _revision() -> str | None:
    """Of the checkout the package runs from; None for an installed one."""
    if not (_PACKAGE.parent / ".git").exists():
        return None
    revision = _command("git", "-C", str(_PACKAGE), "rev-parse", "--short", "HEAD")
    changed = _command("git", "-C", str(_PACKAGE), "status", "--porcelain", "-uno")
    return revision and revision + ("+changes" if changed else "")


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text().strip() or None
    return None


def _command(program: str, *arguments: str) -> str | None:
    """What a program prints; None when it is not there or fails."""
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
