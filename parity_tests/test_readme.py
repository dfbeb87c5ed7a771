"""The README says what the committed results say, and its commands exist."""

import re

import pytest
import typer.main

from benchmarks.readme import PAGES, README, generated


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_results(page):
    assert generated(page) == page.read_text(), "run: python -m benchmarks.readme"


def test_every_command_and_option_named_exists():
    from cdm_export.cli import app

    commands = typer.main.get_command(app).commands
    text = README.read_text()
    lines = re.findall(r"^cdm-export (\w+)(.*)$", text, flags=re.M) + re.findall(r"`cdm-export (\w+)([^`]*)`", text)
    assert len(lines) >= 3
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(--[\w-]+|-\w)\b", rest)) <= known, (name, rest)
