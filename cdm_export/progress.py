"""How long work tells a person where it is; the library never prints."""

from collections.abc import Callable
from typing import Protocol

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


class Silent:
    """Nobody is looking; notes are kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, name: str, steps: int = 0) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Remember it."""
        self.notes.append(text)


def relay(progress: Progress) -> Callable[[Message], None]:
    """What ``run_isolated`` does with reports of ``stage`` and ``steps``, ``step``, and ``note``."""

    def on_message(message: Message) -> None:
        if "stage" in message:
            progress.stage(str(message["stage"]), int(message["steps"]))
        elif "note" in message:
            progress.note(str(message["note"]))
        elif "step" in message:
            progress.step()

    return on_message
