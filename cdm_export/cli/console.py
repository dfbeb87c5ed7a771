"""What commands print with: progress for people, JSON for machines, errors for both."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cdm_export.progress import Progress, Silent
from cdm_export.runtimes.errors import CdmExportError


def print_json(data: Any) -> None:
    """The one JSON document of a command, on standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=False))


def report_error(error: CdmExportError, as_json: bool) -> None:
    """What happened and the next step, on standard error; with ``--json`` also as the document on standard output."""
    if as_json:
        print_json({"error": error.message, "next_step": error.next_step, "exit_code": error.exit_code})
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("error: ", style="bold red", end="")
    console.print(error.message, markup=False)
    if error.next_step:
        console.print(error.next_step, markup=False)


@contextmanager
def progress(show: bool) -> Iterator[Progress]:
    """Live progress on standard error; without a terminal, one line per stage; silent when ``show`` is false."""
    if not show:
        yield Silent()
        return
    import rich.progress
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        yield _Lines()
        return
    bars = rich.progress.Progress(
        rich.progress.SpinnerColumn(finished_text="[green]✓"),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TimeElapsedColumn(),
        console=console,
    )
    with bars:
        yield _Bars(bars)


class _Bars:
    """Progress in a terminal."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def stage(self, name: str, steps: int = 0) -> None:
        self._finish()
        self._task = self._bars.add_task(name, total=steps or None)

    def step(self) -> None:
        self._bars.advance(self._task)

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {text}", style="yellow", markup=False)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1)


class _Lines:
    """Progress in a log file."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def stage(self, name: str, steps: int = 0) -> None:
        print(f"[{time.monotonic() - self._started:6.1f} s] {name}", file=sys.stderr, flush=True)

    def step(self) -> None:
        pass

    def note(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr, flush=True)
