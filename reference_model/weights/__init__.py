"""Checkpoints that ship with the package; each has a model card beside it, ``MODEL.md``."""

from importlib.resources import files
from pathlib import Path


def bundled_checkpoint(model: str) -> Path | None:
    """Checkpoint file of a registry name, e.g. ``cdm-vitt``; None when none ships with this installation."""
    path = Path(str(files(__name__).joinpath(f"{model}.safetensors")))
    return path if path.is_file() else None
