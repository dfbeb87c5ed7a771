"""Paths in a typed network, where casting modules stand around some of its own."""

WRAPPED = "typed_by_cdm_export"
"""Attribute by which a casting module (``typed_modules.py``) holds the module it casts for. No network's own attribute
has this name, so the path of the original is the path without it."""


def original_path(module: str) -> str:
    """Path in the network before it was typed: without the casting modules around its modules."""
    return ".".join(part for part in module.split(".") if part != WRAPPED)
