"""XML as ``cv2.FileStorage`` writes it. Document types, and with them entities, are refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.errors import InputError

_DEEPEST = 16


@dataclass
class _Element:
    name: str
    line: int
    text: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


def parse(text: str, file: str) -> Node:
    """The tree below ``opencv_storage``. Raises InputError with file and line for anything else."""
    parser = expat.ParserCreate("utf-8")
    open_elements: list[_Element] = []
    roots: list[Node] = []

    def refused(message: str) -> NoReturn:
        raise InputError(f"{file}, line {parser.CurrentLineNumber}: {message}")

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(open_elements) >= _DEEPEST:
            refused(f"it is nested more than {_DEEPEST} deep")
        open_elements.append(_Element(name, parser.CurrentLineNumber))

    def end(name: str) -> None:
        element = open_elements.pop()
        node = Node(_value(element, file, refused), file, element.line, name)
        (open_elements[-1].children if open_elements else roots).append(node)

    def data(text: str) -> None:
        open_elements[-1].text.append(text)

    def doctype(*_: object) -> None:
        refused("it has a document type, which is not read")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise InputError(
            f"{file}, line {error.lineno}: {expat.ErrorString(error.code)}",
            "Check that the file was copied completely.",
        ) from error
    if roots[0].name != "opencv_storage":
        raise roots[0].error(f"it is XML of {roots[0].name[:40]}: expected opencv_storage")
    return Node(roots[0].value if isinstance(roots[0].value, dict) else {}, file, roots[0].line)


def _value(element: _Element, file: str, refused: Callable[[str], NoReturn]) -> "dict[str, Node] | list[Node] | str":
    if not element.children:
        lines = "".join(element.text).split("\n")
        if len(lines) == 1:
            return lines[0].strip().strip('"')
        return [
            Node(word, file, line, element.name)
            for line, text in enumerate(lines, element.line)
            for word in text.split()
        ]
    if all(child.name == "_" for child in element.children):
        return element.children
    found: dict[str, Node] = {}
    for child in element.children:
        if child.name in found:
            refused(f"{child.name} stands here a second time")
        found[child.name] = child
    return found
