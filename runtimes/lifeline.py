"""A child process that dies with its parent, however that one dies. Nothing heavy is imported here: it comes first."""

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 1.0
"""Seconds."""


def die_with(parent: int) -> None:
    """End this process, without a word, when the process ``parent`` that started it is gone.

    On Linux the system does it (prctl(2)), also while a library computes with Python's lock held; elsewhere a thread
    looks whether this process has been handed to another.
    """
    told = sys.platform == "linux" and _tell_the_system()
    if os.getppid() != parent:  # it went before we could ask
        os._exit(1)
    if not told:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _tell_the_system() -> bool:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os._exit(1)
