"""Signals that stop a program of ours. Nothing heavy is imported here: it comes before everything else."""

import os
import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code of a command that was stopped, as shells write it."""
_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


def stop_at_once() -> None:
    """From now on these signals end the process: while there is nothing to tidy up, and no traceback of half an import
    helps anybody.
    """
    _handle(_leave)


def stop_by_exception() -> None:
    """From now on these signals raise KeyboardInterrupt, so that temporary files go away on all of them."""
    _handle(_interrupt)


def _handle(handler: "signal._HANDLER") -> None:
    for name in _STOPPING:
        number = getattr(signal, name, None)  # not every system has all
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a job in the background
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
