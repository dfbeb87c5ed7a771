"""How long work tells a person where it is; the library never prints."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cdm_export.runtimes.isolated import Message


class Progress(Protocol):
    """What the command line, a test or a notebook implements."""

    def stage(self, name: str, steps: int = 0) -> None:
        """A new stage begins; ``steps`` 0 when its length is not known."""
        ...

    def step(self) -> None:
        """One step of the current stage is done."""
        ...

    def note(self, text: str) -> None:
        """Something a person should read."""
        ...

    def warn(self, text: str) -> None:
        """Something that can make a result wrong: shown even where progress and notes are not."""
        ...


class Silent:
    """Nobody is looking; notes and warnings are kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def stage(self, name: str, steps: int = 0) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Remember it."""
        self.notes.append(text)

    def warn(self, text: str) -> None:
        """Remember it."""
        self.warnings.append(text)


def relay(progress: Progress) -> "Callable[[Message], None]":
    """What ``run_isolated`` does with reports of ``stage`` and ``steps``, ``step``, ``note`` and ``warn``."""

    def on_message(message: "Message") -> None:
        if "stage" in message:
            progress.stage(str(message["stage"]), int(message["steps"]))
        elif "note" in message:
            progress.note(str(message["note"]))
        elif "warn" in message:
            progress.warn(str(message["warn"]))
        elif "step" in message:
            progress.step()

    return on_message
