"""What takes long to make is made once, whichever of the parallel test processes needs it first."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Path ``name`` in the folder of the whole test run; ``make`` writes it, whole or not at all."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each process has a folder of its own in the run's
    path = folder / name
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            make(path)
    return path
