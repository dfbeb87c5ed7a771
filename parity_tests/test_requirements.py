"""What has to be installed, and what the package says of itself."""

import os
import subprocess
import sys

import pytest

from parity_tests.conftest import REQUIRED
from parity_tests.places import ROOT


@pytest.mark.parametrize(("required", "code"), [("onnxruntime,numpy", 0), ("numpy,no_such_library", 4)])
def test_a_missing_library_ends_the_run(required, code):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "parity_tests/test_requirements.py"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, REQUIRED: required}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert code == 0 or "names what is not installed here: no_such_library" in done.stderr


def test_ci_requires_every_runtime_it_can_have():
    script = (ROOT / ".ci" / "run").read_text()
    for library in ("onnxruntime", "openvino", "coremltools", "tensorrt_rtx_bindings"):
        assert library in script


def test_the_package_says_who_may_install_it():
    from importlib.metadata import metadata

    said = metadata("cdm-export")
    pythons = [name.rpartition(" ")[2] for name in said.get_all("Classifier") or [] if " 3." in name]
    assert said["Requires-Python"] == "<3.14,>=3.10" and pythons == ["3.10", "3.11", "3.12", "3.13"]
    assert said["Author"] and "Python 3.10 to 3.13" in (ROOT / "README.md").read_text()


def test_a_source_distribution_has_everything():
    """What a checkout has, so that whoever has only that can test and build."""
    manifest = (ROOT / "MANIFEST.in").read_text().split()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines()}
    packaged = {"cdm_export", "runtimes", "reference_model", "pyproject.toml", "setup.py", "README.md", "LICENSE"}
    assert top - packaged - {".gitignore", "MANIFEST.in"} <= set(manifest), "neither a package nor in MANIFEST.in"
