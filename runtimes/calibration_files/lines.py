"""Files of one ``NAME: numbers`` or ``NAME=numbers`` a line."""

from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.errors import InputError


def parse(text: str, file: str, separator: str) -> Node:
    """Name -> text behind it. Raises InputError for a line without a name, and for a name that comes twice."""
    found: dict[str, Node] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name, separated, value = (part.strip() for part in line.partition(separator))
        if not name or not separated:
            raise InputError(f"{file}, line {number}: expected NAME{separator}NUMBERS, got '{line.strip()[:40]}'")
        if name in found:
            raise InputError(f"{file}, line {number}: {name} stands here a second time")
        found[name] = Node(value, file, number, name)
    return Node(found, file, 0)
