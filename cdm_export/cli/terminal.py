"""What reaches a terminal: text as it is, and whatever a terminal would act on, or could not show, as an escape.

Names, manifests and libraries' errors come from elsewhere: an ESC in them could rewrite the screen, a bracket would be
taken for Rich's markup, and a character that the stream's encoding lacks would end the command in a traceback.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def prepare_streams() -> None:
    """Standard output and error never fail for what they are given: ASCII terminals, names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str, lines: bool = False) -> str:
    """``text`` with control characters, and others that do not print, as ``\\x1b`` or ``\\u202e``; ``lines`` keeps line
    breaks and tabs.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(one if one.isprintable() or one in kept else _escape(one) for one in text)


def _escape(character: str) -> str:
    """As Python writes it; ``unicode_escape`` takes the halves of surrogate pairs that names not UTF-8 come with."""
    return character.encode("unicode_escape").decode("ascii")


def say(text: str, *, error: bool = False) -> None:
    """Print a line, to standard error where ``error``."""
    print(visible(text), file=sys.stderr if error else sys.stdout, flush=error)


def terminal(*, stderr: bool = False, markup: bool = False, soft_wrap: bool = False) -> "Console":
    """Rich's console for text from anywhere; strings are markup only where asked for, and then have to be escaped.

    Into a pipe or a file nothing is wrapped: what reads it counts lines.
    """
    from cdm_export.cli.escaping_console import EscapingConsole

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNWRAPPED
    return EscapingConsole(stderr=stderr, markup=markup, emoji=False, highlight=False, soft_wrap=soft_wrap, width=width)


def print_table(table: "Table", *, markup: bool = False) -> None:
    """A table on standard output: fitted to a terminal; into a pipe one line per row, without blanks at its end."""
    console = terminal(markup=markup)
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip())


_UNWRAPPED = 100_000
"""Columns; no line of ours is longer."""
