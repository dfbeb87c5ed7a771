"""Importing the package, its command line and the runtimes loads nothing heavy: a device has none of it."""

import subprocess
import sys
from importlib import import_module

import pytest

from cdm_export.cli.commands import COMMANDS
from parity_tests.places import ROOT

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


LATE = (*HEAVY, "numpy", "cv2", "pydantic")
"""What the package and its list of commands do without until it is used."""


def loaded(code: str) -> list[str]:
    """Which of ``LATE`` are loaded after ``code``, in a process of its own."""
    code += f"\nimport sys; print('LOADED', *[name for name in {LATE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.rsplit("LOADED", 1)[1].split()


def test_importing_the_package_is_instant():
    assert loaded("import cdm_export") == []
    assert loaded("import cdm_export; cdm_export.Frame") == ["numpy", "pydantic"], "loaded when it is used"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_is_instant(arguments):
    assert loaded(f"from cdm_export.cli import run_command\nrun_command({arguments!r})") == []


@pytest.mark.parametrize("arguments", [["--version"], ["exprot"]])
def test_so_is_what_runs_no_command(arguments):
    """But for pydantic, which typer takes to read options with."""
    names = loaded(f"from cdm_export.cli import run_command\nrun_command({arguments!r})")
    assert set(names) <= {"pydantic"}


def test_the_list_of_commands_says_what_their_own_help_says():
    for name, sentence in COMMANDS.items():
        text = import_module(f"cdm_export.cli.{name}").command.__doc__
        assert " ".join(text.split("\n\n")[0].split()) == sentence, name
    modules = {path.stem for path in (ROOT / "cdm_export" / "cli").glob("*.py")}
    assert set(COMMANDS) <= modules


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command):
    names = loaded(f"from cdm_export.cli import run_command\nassert run_command([{command!r}, '--help']) == 0")
    assert not set(names) & set(HEAVY)
