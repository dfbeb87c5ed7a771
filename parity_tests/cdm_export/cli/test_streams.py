"""What reaches a terminal: nothing it would act on, and no character ends a command in a traceback."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cdm_export.cli import run_command
from cdm_export.cli.console import print_json, progress, report_error
from cdm_export.cli.terminal import say, terminal, visible
from cdm_export.runtimes.errors import InputError
from parity_tests.conftest import cli
from parity_tests.old_bundle import tiny_bundle  # noqa: F401 fixture
from parity_tests.places import ROOT

HOSTILE = "a\x1b[2J\x9b1m\x07\r\x7f\u202e[bold]x[/bold]:smile:\udcff"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


def test_everything_that_shows_text_makes_it_visible(capsys):
    say(HOSTILE)
    say(HOSTILE, error=True)
    print_json({HOSTILE: HOSTILE})
    report_error(InputError(HOSTILE, HOSTILE), as_json=True)
    with progress(True) as shown:
        shown.stage(HOSTILE, 1)
        shown.note(HOSTILE + "\nsecond line")
    terminal().print(HOSTILE)
    said = "".join(capsys.readouterr())
    assert not CONTROL.search(said), CONTROL.findall(said)
    assert said.count("[bold]x[/bold]:smile:") == 11 and "\nsecond line\n" in said


def test_a_terminal_gets_its_colors_and_nothing_else(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    report_error(InputError(HOSTILE), as_json=False)
    with progress(True) as shown:
        shown.stage(HOSTILE)
        shown.note(HOSTILE)
    text = stream.getvalue()
    assert "\x1b[" in text and "\x1b[2J" not in text and "\x9b" not in text and "\x07" not in text
    assert text.count("[bold]x[/bold]:smile:") >= 3


def test_what_prints_stays_as_it_is():
    text = "C:\\Röme\\東京 — 1 µm … ✓"
    assert visible(text) is text
    assert visible("a\tb\nc", lines=True) == "a\tb\nc" and visible("a\tb\nc") == "a\\tb\\nc"


def test_commands_print_through_one_place():
    """A command that prints by itself, or opens a console of its own, shows a terminal what it should not see."""
    for path in (ROOT / "cdm_export" / "cli").glob("*.py"):
        text = path.read_text()
        if path.stem not in ("console", "terminal"):
            assert not re.search(r"(?<![\w.])print\(|sys\.stdout\.write|typer\.echo", text), path
        if path.stem != "escaping_console":
            assert not re.search(r"^\s+from rich\.console import Console\n(?!.*TYPE_CHECKING)", text, re.M) or (
                "TYPE_CHECKING" in text
            ), path


def test_manifest_strings(tiny_bundle, capsys):  # noqa: F811
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["producer"] = "cdm-export \x1b]0;owned\x07[blink]"
    manifest["provenance"]["licence"] = "\x9b31m[/]"
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    assert run_command(["inspect", str(tiny_bundle)]) == 0
    said = capsys.readouterr().out
    assert not CONTROL.search(said) and "\\x1b]0;owned" in said and "[blink]" in said


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "utf-8:strict", "latin-1:strict"])
def test_any_terminal(tiny_bundle, encoding):  # noqa: F811
    strange = tiny_bundle.rename(tiny_bundle.parent / "東\udcff\x1b.bundle")
    with_encoding = {"PYTHONIOENCODING": encoding}
    raw = subprocess.run(
        [sys.executable, "-m", "cdm_export", "inspect", strange],
        capture_output=True, env={**__import__("os").environ, **with_encoding},
    )  # fmt: skip
    assert raw.returncode == 0 and b"Traceback" not in raw.stderr and b"weights" in raw.stdout
    unwrapped = b"".join(raw.stdout.split())  # the path is as long as the temporary folder's
    assert b"\x1b" not in raw.stdout and b"\\udcff" in unwrapped
    document = cli("inspect", strange, "--json", environment=with_encoding)
    assert json.loads(document.stdout)["identity"] and document.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_standard_output_is_said_once():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cdm_export", "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and "No space left" in done.stderr and done.stderr.count("\n") == 2
