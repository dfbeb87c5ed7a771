"""CI does not skip what it should have run."""

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
