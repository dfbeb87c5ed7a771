"""YAML as calibration programs write it, JSON included: mappings, lists, numbers and text; nothing is executed.

No anchors, aliases, merges or tags, OpenCV's mark of a matrix apart; no second document. (YAML 1.2, chapters 7 and 8.)
"""

import json
import re
from bisect import bisect_left
from dataclasses import dataclass, field

from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.errors import InputError

_DEEPEST = 16
"""Nesting; calibration files have 4."""
_KEY = re.compile(
    r"""(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)'|([^\s#&*!|>'"%@`\[\]{},?:-][^:#]{0,100}?))[ ]{0,20}:(?=\s|$)"""
)
_QUOTED = re.compile(r"""(?s)"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'""")
_PLAIN = re.compile(r"[^\s,\[\]{}:#\"'&*!|>%@`?][^,\[\]{}:#\"\n]*")
_MATRIX = re.compile(r"!!opencv-matrix(?=\s|$)\s*")


def parse(text: str, file: str) -> Node:
    """The tree of ``text``. Raises InputError with file and line for anything else."""
    reader = _Reader(text, file)
    stripped = text.lstrip()
    if stripped.startswith(("{", "[")):
        start = len(text) - len(stripped)
        node, end = reader.flow(start, "", 0)
        if text[end:].strip():
            raise reader.error(reader.line_at(end), "something follows the end of the JSON")
        return node
    return reader.document()


@dataclass
class _Line:
    number: int
    start: int
    """Offset of its first character in the text."""
    indent: int
    text: str
    """Without indentation, comment and space at the end."""


@dataclass
class _Reader:
    text: str
    file: str
    lines: list[_Line] = field(default_factory=list)
    at: int = 0
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = [match.start() for match in re.finditer("\n", self.text)]

    def error(self, line: int, message: str) -> InputError:
        return InputError(
            f"{self.file}, line {line}: {message}", "Check that this is a calibration file, and was copied completely."
        )

    def line_at(self, offset: int) -> int:
        return bisect_left(self.ends, offset) + 1

    # --- blocks: one thing per line, by indentation ---

    def document(self) -> Node:
        offset = 0
        begun = False
        for number, raw in enumerate(self.text.split("\n"), 1):
            content = _without_comment(raw).rstrip()
            if number == 1 and content.startswith("%YAML"):
                content = ""
            if content in ("---", "..."):
                if begun:
                    break
                content = ""
            if content:
                begun = True
                bare = content.lstrip(" ")
                self.lines.append(_Line(number, offset, len(content) - len(bare), bare))
            offset += len(raw) + 1
        if not self.lines:
            raise self.error(1, "there is nothing in it")
        node = self.block(self.lines[0].indent, "", 0)
        if self.at < len(self.lines):
            raise self.error(self.lines[self.at].number, "the indentation fits nothing above it")
        return node

    def block(self, indent: int, name: str, depth: int) -> Node:
        first = self.lines[self.at]
        if depth > _DEEPEST:
            raise self.error(first.number, f"it is nested more than {_DEEPEST} deep")
        if first.text == "-" or first.text.startswith("- "):
            return self.sequence(indent, name, depth)
        found: dict[str, Node] = {}
        while self.at < len(self.lines) and self.lines[self.at].indent == indent:
            line = self.lines[self.at]
            match = _KEY.match(line.text)
            if match is None:
                raise self.error(line.number, f"expected NAME: VALUE, got '{line.text[:40]}'")
            key = next(group for group in match.groups() if group is not None).strip()
            if key in found:
                raise self.error(line.number, f"{key} stands here a second time")
            found[key] = self.value(line, match.end(), key, depth)
        return Node(found, self.file, first.number, name)

    def sequence(self, indent: int, name: str, depth: int) -> Node:
        first = self.lines[self.at]
        items = []
        while self.at < len(self.lines) and self.lines[self.at].indent == indent:
            line = self.lines[self.at]
            if not (line.text == "-" or line.text.startswith("- ")):
                break
            items.append(self.value(line, 1, name, depth))
        return Node(items, self.file, first.number, name)

    def value(self, line: _Line, column: int, name: str, depth: int) -> Node:
        """What stands behind ``column`` of a line, or under it."""
        rest = line.text[column:].lstrip()
        mark = _MATRIX.match(rest)
        if mark:
            rest = rest[mark.end() :]
        self.at += 1
        if not rest:
            below = self.lines[self.at] if self.at < len(self.lines) else None
            deeper = below is not None and (
                below.indent > line.indent
                # A list may stand at the indentation of its key.
                or (below.indent == line.indent and not line.text.startswith("-") and below.text.startswith("-"))
            )
            if below is not None and deeper:
                return self.block(below.indent, name, depth + 1)
            return Node("", self.file, line.number, name)
        if rest[0] in "[{":
            start = line.start + line.indent + len(line.text) - len(rest)
            node, end = self.flow(start, name, depth + 1)
            last = self.line_at(end)
            if _without_comment(self.text[end:].split("\n", 1)[0]).strip():
                raise self.error(last, f"something follows the end of {name}")
            while self.at < len(self.lines) and self.lines[self.at].number <= last:
                self.at += 1
            return node
        return Node(self.scalar(rest, line.number), self.file, line.number, name)

    def scalar(self, text: str, line: int) -> str:
        if text[0] in "\"'":
            if not _QUOTED.fullmatch(text):
                raise self.error(line, "a quotation does not end")
            return self.unquoted(text, line)
        if text[0] in "&*!|>%@`":
            raise self.error(line, f"'{text[:20]}': anchors, tags and blocks of text are not read")
        return text

    def unquoted(self, text: str, line: int) -> str:
        if text[0] == "'":
            return text[1:-1].replace("''", "'")
        try:
            return str(json.loads(text, strict=False))
        except ValueError:
            raise self.error(line, "a quotation has an escape that is not read") from None

    # --- flows: lists and mappings in brackets, over as many lines as they like ---

    def flow(self, at: int, name: str, depth: int) -> tuple[Node, int]:
        """What stands at offset ``at``, and the offset behind it."""
        line = self.line_at(at)
        if depth > _DEEPEST:
            raise self.error(line, f"it is nested more than {_DEEPEST} deep")
        opening = self.text[at : at + 1]
        if opening == "[":
            return self.flow_list(at, name, depth, line)
        if opening == "{":
            return self.flow_mapping(at, name, depth, line)
        text, end = self.flow_scalar(at, line)
        return Node(text, self.file, line, name), end

    def flow_scalar(self, at: int, line: int) -> tuple[str, int]:
        quoted = _QUOTED.match(self.text, at)
        if quoted:
            return self.unquoted(quoted[0], line), quoted.end()
        plain = _PLAIN.match(self.text, at)
        if plain is None:
            got = self.text[at : at + 10].split("\n")[0]
            raise self.error(line, f"expected a value, got '{got}'" if got else "a bracket is not closed")
        return plain[0].strip(), plain.end()

    def flow_list(self, at: int, name: str, depth: int, line: int) -> tuple[Node, int]:
        items: list[Node] = []
        at = self.skip(at + 1)
        while self.text[at : at + 1] != "]":
            node, at = self.flow(at, name, depth + 1)
            items.append(node)
            at = self.separated(at, "]")
        return Node(items, self.file, line, name), at + 1

    def flow_mapping(self, at: int, name: str, depth: int, line: int) -> tuple[Node, int]:
        found: dict[str, Node] = {}
        at = self.skip(at + 1)
        while self.text[at : at + 1] != "}":
            here = self.line_at(at)
            key, at = self.flow_scalar(at, here)
            at = self.skip(at)
            if self.text[at : at + 1] != ":":
                raise self.error(self.line_at(at), f"expected ':' after '{key[:40]}'")
            if key in found:
                raise self.error(here, f"{key} stands here a second time")
            found[key], at = self.flow(self.skip(at + 1), key, depth + 1)
            at = self.separated(at, "}")
        return Node(found, self.file, line, name), at + 1

    def separated(self, at: int, closing: str) -> int:
        """Behind a comma, or at the closing bracket."""
        at = self.skip(at)
        here = self.text[at : at + 1]
        if here == ",":
            return self.skip(at + 1)
        if here != closing:
            raise self.error(
                self.line_at(at), f"expected ',' or '{closing}', got '{here}'" if here else "it ends early"
            )
        return at

    def skip(self, at: int) -> int:
        """Behind space, line ends and comments."""
        while at < len(self.text):
            if self.text[at] == "#":
                end = self.text.find("\n", at)
                at = len(self.text) if end < 0 else end
            elif self.text[at].isspace():
                at += 1
            else:
                break
        return at


def _without_comment(line: str) -> str:
    """A line up to a # that is at its beginning or behind space, and in no quotation."""
    quote = ""
    for index, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote and line[index - 1] != "\\" else quote
        elif letter in "\"'" and (index == 0 or line[index - 1] in " :[,{"):
            quote = letter
        elif letter == "#" and (index == 0 or line[index - 1].isspace()):
            return line[:index]
    return line
