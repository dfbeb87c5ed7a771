"""The command that adds an extra works where it is printed: the package is on no index."""

import importlib.metadata
import json
import shlex
import subprocess
import sys

import pytest

from cdm_export.runtimes import install as module
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.install import install
from parity_tests.places import ROOT


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """``installed(direct_url)``: as if the package had been installed elsewhere, with this note of pip's beside it."""

    def pretend(direct_url):
        class Distribution:
            def read_text(self, name):
                assert name == "direct_url.json"
                return None if direct_url is None else json.dumps(direct_url)

        monkeypatch.setattr(
            module, "__file__", str(tmp_path / "site-packages" / "cdm_export" / "runtimes" / "install.py")
        )
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
        module._checkout.cache_clear()

    yield pretend
    module._checkout.cache_clear()


def test_from_a_checkout_it_names_the_checkout_and_pip_understands_it():
    command = shlex.split(install("cpu"))
    assert command == ["pip", "install", "-e", f"{ROOT}[cpu]"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--dry-run", "--no-deps", "--no-build-isolation", "--quiet"],
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("editable", [True, False])
def test_installed_from_a_folder(installed, tmp_path, editable):
    folder = tmp_path / "my checkout"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    installed({"url": folder.as_uri(), "dir_info": {"editable": True} if editable else {}})
    expected = ["pip", "install", *(["-e"] if editable else []), f"{folder}[export,cpu]"]
    assert shlex.split(install("export", "cpu")) == expected


@pytest.mark.parametrize("origin", [None, {"url": "file:///gone", "dir_info": {}}, {"url": "https://x/y.whl"}])
def test_installed_from_elsewhere(installed, origin):
    installed(origin)
    assert install("cpu") == "pip install 'cdm-export[cpu]'" and install() == "pip install cdm-export"


def test_every_extra_that_is_named_exists():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {backend.extra for backend in BACKENDS.values() if " " not in backend.extra} <= set(extras)


def test_no_other_place_says_how():
    for folder in ("cdm_export", "runtimes", "reference_model", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (
                "pip install 'cdm-export" not in path.read_text() and "pip install cdm-export" not in path.read_text()
            )
