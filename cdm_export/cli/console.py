"""What commands print with: progress for people, JSON for machines, errors for both."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cdm_export.cli.terminal import say, terminal, visible
from cdm_export.progress import Progress, Silent
from cdm_export.runtimes.errors import CdmExportError

# Commands say themselves what the library logs for callers in Python; without a handler, logging would print it too.
logging.getLogger("cdm_export").addHandler(logging.NullHandler())


def print_json(data: Any) -> None:
    """The one JSON document of a command, on standard output."""
    # ASCII: whatever the terminal's encoding, and names that are not UTF-8, it stays a document.
    print(json.dumps(data, indent=1, ensure_ascii=True))


def report_error(error: CdmExportError, as_json: bool) -> None:
    """What happened and the next step, on standard error; with ``--json`` also as the document on standard output."""
    if as_json:
        print_json({"error": error.message, "next_step": error.next_step, "exit_code": error.exit_code})
    console = terminal(stderr=True, soft_wrap=True)
    console.print("error: ", style="bold red", end="")
    console.print(visible(error.message))
    if error.next_step:
        console.print(visible(error.next_step))


@contextmanager
def progress(show: bool) -> Iterator[Progress]:
    """Live progress on standard error; without a terminal, one line per stage; only warnings when ``show`` is false."""
    if not show:
        yield _Quiet()
        return
    import rich.progress

    console = terminal(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        yield _Lines()
        return
    bars = rich.progress.Progress(
        rich.progress.SpinnerColumn(finished_text="[green]✓"),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TimeElapsedColumn(),
        console=console,
        redirect_stdout=sys.stdout.isatty(),  # what is piped stays on standard output
    )
    with bars:
        yield _Bars(bars)


class _Quiet(Silent):
    """No progress and no notes; what can make a result wrong is said all the same."""

    def warn(self, text: str) -> None:
        super().warn(text)
        say(f"warning: {text}", error=True)


class _Bars:
    """Progress in a terminal."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def stage(self, name: str, steps: int = 0) -> None:
        self._finish()
        self._task = self._bars.add_task(visible(name), total=steps or None)

    def step(self) -> None:
        self._bars.advance(self._task)

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {text}", style="yellow")

    def warn(self, text: str) -> None:
        self._bars.console.print(f"warning: {visible(text)}", style="bold yellow")

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1)


class _Lines:
    """Progress in a log file."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def stage(self, name: str, steps: int = 0) -> None:
        say(f"[{time.monotonic() - self._started:6.1f} s] {name}", error=True)

    def step(self) -> None:
        pass

    def note(self, text: str) -> None:
        for line in f"note: {text}".split("\n"):
            say(line, error=True)

    def warn(self, text: str) -> None:
        say(f"warning: {text}", error=True)
