"""The smallest bundle there is, which version 0.1 wrote: opened and run in milliseconds."""

import shutil
from pathlib import Path

import pytest

from parity_tests.places import DATA

OLD = DATA / "bundle-0.1"


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """A copy: commands write beside it."""
    return Path(shutil.copytree(OLD, tmp_path / "tiny.bundle"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, to compare before and after."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
