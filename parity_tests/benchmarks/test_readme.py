"""README and docs say what the committed results say; their commands parse, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from benchmarks.readme import PAGES, generated
from parity_tests.places import ROOT

README = ROOT / "README.md"
TEXTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IN_A_BLOCK = re.compile(r"^cdm-export (\S.*)$", re.M)
IN_A_LINE = re.compile(r"`cdm-export ((?:[^`\n]|\n(?!\n))+)`")
SHAPE = re.compile(r"\[|\||\.\.\.|\b(?:COMMAND|verify`)")
"""A command's shape, not a command: its options are looked at only."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_results(page):
    assert generated(page) == page.read_text(), "run: python -m benchmarks.readme"


def commands(page: Path) -> list[str]:
    text = page.read_text()
    found = IN_A_BLOCK.findall(text) + IN_A_LINE.findall(text)
    return [re.sub(r"\s+#.*$", "", " ".join(line.split())) for line in found]


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_every_command_parses(page):
    """By the command line's own parser, up to the point where it would begin to work."""
    from cdm_export.cli import app

    group = typer.main.get_command(app)
    for line in commands(page):
        words = shlex.split(line.replace("\\|", "|"))
        command = group.get_command(typer.Context(group), words[0])
        if SHAPE.search(line) or command is None:
            assert command is not None or words[0] in ("COMMAND", "--version"), line
            known = {option for parameter in command.params for option in parameter.opts} if command else set()
            named = set(re.findall(r"(?<!\S)(--[\w-]+|-\w)\b", line)) - {"--version"}
            assert command is None or named <= known | {"--help"}, line
            continue
        try:
            command.make_context(words[0], words[1:])
        except Exception as error:  # of click, or of the copy that typer brings
            if type(error).__name__ in ("MissingParameter", "Exit"):
                continue  # said in passing, with the options that matter there
            raise AssertionError(f"cdm-export {line}: {error}") from error


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_is_short_and_begins_with_what_to_type():
    text = README.read_text()
    assert len(text.encode()) <= 9000
    assert text.index("make demo") < text.index("make test") < 200
    assert len(commands(README)) >= 4


def test_hints_of_the_pages_install_from_a_checkout():
    """The package is on no index."""
    for page in TEXTS:
        assert "pip install cdm-export" not in page.read_text() and "pip install 'cdm-export" not in page.read_text(), (
            page
        )
