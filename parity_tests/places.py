"""Where tests find the project's files."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""
DATA = Path(__file__).parent / "data"
"""Small files that belong to tests."""
