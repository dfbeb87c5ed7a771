"""Values of a calibration file that know where they stand, so that every refusal names file and line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

from cdm_export.runtimes.errors import InputError

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LONGEST_NUMBER = 64


class SizeMissing(InputError):
    """The file does not say which image size it belongs to, and nobody else did."""


@dataclass(frozen=True)
class Node:
    """A mapping, a list or text."""

    value: "dict[str, Node] | list[Node] | str"
    """What stands there."""
    file: str
    """Name of the file."""
    line: int
    """From 1; 0 where the value has no line of its own."""
    name: str = ""
    """Key it stands under; empty at the top."""

    def error(self, message: str, next_step: str = "") -> InputError:
        """An error that says where."""
        return InputError(f"{self.place}: {message}", next_step)

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}, line {self.line}" if self.line else self.file

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __getitem__(self, key: str) -> "Node":
        """What stands under ``key``. Raises InputError when nothing does."""
        return self.first(key)

    def first(self, *keys: str) -> "Node":
        """What stands under the first of ``keys`` that is there. Raises InputError when none is."""
        for key in keys:
            if isinstance(self.value, dict) and key in self.value:
                return self.value[key]
        where = f" in {self.name}" if self.name else ""
        raise self.error(f"{' or '.join(keys)} is missing{where}")

    def get(self, key: str) -> "Node | None":
        """What stands under ``key``, if anything."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    @property
    def text(self) -> str:
        """Raises InputError for a mapping or a list."""
        if not isinstance(self.value, str):
            raise self.error(f"{self.name or 'this'} must be one value, got {self._kind}")
        return self.value

    @property
    def number(self) -> float:
        """Raises InputError for what is no finite number."""
        value = float(self.text) if len(self.text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(self.text) else None
        if value is None or not isfinite(value):
            raise self.error(f"{self.name or 'this'} must be a finite number, got '{short(self.text)}'")
        return value

    def numbers(self, *counts: int) -> tuple[float, ...]:
        """A list of numbers, or numbers with space between them. Raises InputError unless they are as many as one of
        ``counts``, where any is given."""
        if isinstance(self.value, dict):
            raise self.error(f"{self.name} must be numbers, got {self._kind}")
        if isinstance(self.value, str) and not self.value.strip():
            raise self.error(f"{self.name} is empty: expected numbers", "Check that the file was copied completely.")
        items = self.value if isinstance(self.value, list) else [self._part(word) for word in self.value.split()]
        found = tuple(item.number for item in items)
        if counts and len(found) not in counts:
            raise self.error(
                f"{self.name} must have {' or '.join(map(str, counts))} numbers, got {len(found)}",
                "Check that the file was copied completely.",
            )
        return found

    def _part(self, word: str) -> "Node":
        return Node(word, self.file, self.line, self.name)

    @property
    def _kind(self) -> str:
        return "a list" if isinstance(self.value, list) else "a mapping" if isinstance(self.value, dict) else "text"

    @contextmanager
    def named(self) -> Iterator[None]:
        """What is refused inside is refused with this place."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.place}: {error.message}", error.next_step) from error


def short(text: str) -> str:
    """At most 40 characters of what somebody wrote."""
    return text if len(text) <= 40 else text[:37] + "..."
