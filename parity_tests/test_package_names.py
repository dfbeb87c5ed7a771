"""The package's names are its own: a user's folder ``runtimes`` or ``reference_model`` changes nothing for it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from parity_tests.once import once
from parity_tests.places import ROOT

BESIDE = ("runtimes", "reference_model")
SCRIPT = """
import sys
import cdm_export
from cdm_export.runtimes.worker import Job
from cdm_export.reference_model.registry import get_variant
frame = cdm_export.Frame(__import__("numpy").zeros((4, 6, 3), "uint8"))
print(cdm_export.__file__, str(frame.size), get_variant("cdm-vits").name)
try:
    cdm_export.open("no.bundle")
except cdm_export.CdmExportError as error:
    print(error.message)
assert not {"runtimes", "reference_model"} & set(sys.modules), "it was imported under a name that is the user's"
"""


@pytest.fixture
def users_folder(tmp_path):
    """A script beside a package and a module that have our old names, and end whoever imports them."""
    for name in BESIDE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the user\\'s own code was imported')\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def ran(folder: Path, *command: object, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env={**os.environ, **environment}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a checkout whose links were not checked out, as on a system without them."""

    def build(folder: Path) -> None:
        files = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        source = folder / "checkout"
        for name in files.splitlines():
            if name.startswith(("parity_tests/", "benchmarks/")) or not (ROOT / name).is_file():
                continue
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
        for name in BESIDE:
            (source / "cdm_export" / name).write_text(f"../{name}")  # what git leaves there
        ran(source, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ".")

    folder = once(tmp_path_factory, "wheel", lambda out: (out.mkdir(), build(out)))
    (found,) = folder.glob("*.whl")
    return found


def test_from_an_editable_install(users_folder):
    lines = ran(users_folder, "script.py")
    assert lines == [f"{ROOT / 'cdm_export' / '__init__.py'} 6x4 cdm-vits", "no.bundle: no such folder"]


def test_from_a_wheel(wheel, users_folder, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    lines = ran(users_folder, "script.py", PYTHONPATH=str(installed))
    assert lines == [f"{installed / 'cdm_export' / '__init__.py'} 6x4 cdm-vits", "no.bundle: no such folder"]
    assert ran(users_folder, "-m", "cdm_export", "--version", PYTHONPATH=str(installed))[0].startswith("cdm-export ")


def test_a_wheel_holds_every_module_once_and_nothing_at_top_level(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"cdm_export"}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cdm_export").rglob("*.py")}
    for beside in BESIDE:
        expected |= {f"cdm_export/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / beside).rglob("*.py")}
    assert len(expected) > 200
    assert {name for name in names if name.endswith(".py")} == {name for name in expected if "__pycache__" not in name}
    for data in ("reference_model/weights/cdm-vitt.safetensors", "report/page.html.j2", "py.typed"):
        assert f"cdm_export/{data}" in names


def test_no_module_is_imported_by_its_old_name():
    """From the root of a checkout both names work, and would load everything twice."""
    old = [
        f"{path.name}: {line}"
        for folder in ("cdm_export", *BESIDE, "benchmarks", "examples", "parity_tests")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(tuple(f"{verb} {name}" for verb in ("from", "import") for name in BESIDE))
    ]
    assert old == []
