"""What a result was measured on, recorded with every result."""

import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runtimes.host import cpu_features, cpu_name, usable_cpus, version_of

_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "opencv-python")


def environment() -> dict[str, Any]:
    """Processor, memory, libraries, git revision and time; JSON-ready."""
    memory = next(
        (line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")), "0"
    )
    return {
        "cpu": cpu_name(),
        "cpu_features": sorted(cpu_features() & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile"}),
        "usable_cpus": usable_cpus(),
        "memory_gib": round(int(memory) / 2**20, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: version_of(name) for name in _LIBRARIES},
        "revision": _git("rev-parse", "--short", "HEAD")
        + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
