"""Resolve every dependency a Jetson needs, for aarch64 and its Pythons, from wheels alone: nothing is compiled there.

    python parity_tests/resolve_aarch64.py

Resolves only, installs nothing. TensorRT itself is not among them: it comes with JetPack.
"""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHONS = {"3.10": ("jetpack6", 35), "3.12": ("jetpack7", 39)}
"""Python of a JetPack: the extra it takes, and minor version of its C library."""
RUNTIMES = {"TensorRT": (), "ONNX Runtime": ("onnxruntime",), "OpenVINO": ("openvino",)}
"""Requirements beside the base dependencies and the JetPack's extra; TensorRT needs no more."""


def requirements(extra: str) -> list[str]:
    """Base dependencies and those of an extra, from pyproject.toml."""
    import tomllib  # Python 3.11: this script runs where the package is developed

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def resolve(python: str, glibc: int, wanted: list[str]) -> subprocess.CompletedProcess[str]:
    """Ask pip what it would install there."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(glibc, 16, -1)] + ["manylinux2014_aarch64"]
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check",
                   "--ignore-installed", "--only-binary", ":all:", "--target", target, "--python-version", python,
                   "--implementation", "cp", "--report", "-"]  # fmt: skip
        command += [part for name in platforms for part in ("--platform", name)]
        return subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)


def main() -> int:
    """Every Python and runtime; 1 when one does not resolve."""
    import json

    failed = 0
    for python, (extra, glibc) in PYTHONS.items():
        for runtime, beside in RUNTIMES.items():
            done = resolve(python, glibc, [*requirements(extra), *beside])
            name = f"Python {python}, aarch64, {extra}, {runtime}"
            if done.returncode:
                failed = 1
                print(f"{name}: FAILED\n{done.stderr}")
                continue
            found = {
                item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(done.stdout)["install"]
            }
            shown = ", ".join(f"{package} {version}" for package, version in sorted(found.items()))
            print(f"{name}: {len(found)} wheels: {shown}")
    print(f"markers were judged on {platform.machine()}, Python {platform.python_version()}; wheels were not")
    return failed


if __name__ == "__main__":
    sys.exit(main())
