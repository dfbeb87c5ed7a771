"""What this machine is: names for local results and for messages."""

import hashlib
import importlib.metadata
import platform
import sys
from pathlib import Path


def cpu_name() -> str:
    """Model name of the CPU, as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_features() -> frozenset[str]:
    """Instruction set flags of the CPU; empty where the operating system does not list them."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


def usable_cpus() -> int:
    """Processors this process may run on."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it; None when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def fingerprint(*devices: str) -> str:
    """8 hex digits that change with CPU, its features, system, architecture and the ``devices`` named."""
    parts = (platform.machine(), sys.platform, cpu_name(), *sorted(cpu_features()), *devices)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
