"""Importing the package, its command line and the runtimes loads nothing heavy: a device has none of it."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "coremltools",
    "tensorrt",
    "tensorrt_rtx_bindings",
    "cuda",
    "skimage",
)


@pytest.mark.parametrize(
    "module",
    ["cdm_export", "cdm_export.cli", "cdm_export.export.bundle", "cdm_export.parity.verify", "cdm_export.runtimes",
     "cdm_export.runtimes.worker", "cdm_export.runtimes.onnxruntime", "cdm_export.runtimes.openvino",
     "cdm_export.runtimes.tensorrt", "cdm_export.runtimes.cuda_memory", "cdm_export.reference_model.registry",
     "cdm_export.tensorrt.build", "cdm_export.tensorrt.worker", "cdm_export.doctor.machine"],
)  # fmt: skip
def test_nothing_heavy_is_loaded(module):
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['cdm-export', '--help']\nfrom cdm_export.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rsplit("LOADED", 1)[1].split() == []
