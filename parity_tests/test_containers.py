"""The container files are of this package: what they copy exists, extras have their names, commands parse."""

import re
from importlib.metadata import metadata

import pytest

from parity_tests.places import ROOT

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TEXTS = {path.name: path.read_text() for path in FILES}
EXTRAS = metadata("cdm-export").get_all("Provides-Extra") or []


def code(text: str) -> str:
    """Instructions without comments, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ")


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_copied_is_what_an_installation_needs(name):
    copied = [word for line in re.findall(r"^COPY (.+)$", code(TEXTS[name]), re.M) for word in line.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied), copied
    assert {"setup.py", "pyproject.toml", "constraints.txt", "cdm_export", "runtimes", "reference_model"} <= set(copied)


@pytest.mark.parametrize("name", TEXTS)
def test_extras_are_the_package_s(name):
    text = code(TEXTS[name])
    default = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.M))
    (installed,) = re.findall(r"\"\.\[([^\]]+)\]\"", text)
    wanted = [default[extra[2:-1]] if extra.startswith("${") else extra for extra in installed.split(",")]
    assert wanted and set(wanted) <= set(EXTRAS)
    assert set(re.findall(r"EXTRA=(\w+)", TEXTS[name])) <= set(EXTRAS)


@pytest.mark.parametrize("name", TEXTS)
def test_what_wheels_and_venvs_take_from_the_system_is_installed(name):
    text = code(TEXTS[name])
    (packages,) = re.findall(r"apt-get install ([^&]+)", text)
    assert {"libgl1", "libglib2.0-0"} <= set(packages.split()), "OpenCV's wheel does not import without them"
    assert "-m venv" not in text or "python3-venv" in packages


@pytest.mark.parametrize("name", TEXTS)
def test_every_run_keeps_the_cache(name):
    text = TEXTS[name] + (ROOT / "docs" / "containers.md").read_text()
    (cache,) = re.findall(r"CDM_EXPORT_CACHE=(\S+)", code(TEXTS[name]))
    runs = [run.replace("\\\n", " ") for run in re.findall(r"docker run(?:[^\n]*\\\n)*[^\n]*", text)]
    assert runs and all(f"-v cdm-export-cache:{cache} " in run for run in runs), runs


def test_there_is_a_default_image_for_the_jetson_that_most_have():
    text = code(TEXTS["l4t.Dockerfile"])
    assert re.search(r"^ARG BASE=\S+:r10\.3\.0-\w+$", text, re.M) and "FROM ${BASE}" in text
