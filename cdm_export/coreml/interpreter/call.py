"""An operation being executed: its operands, fetched by the type they must have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from cdm_export.coreml.interpreter.arithmetic import Arithmetic
from cdm_export.runtimes.errors import BundleError

Value = Tensor | float | int | bool | str


@dataclass(frozen=True)
class Call:
    """What an operation computes from."""

    name: str
    """Name of its first value."""
    kind: str
    """Type of the operation."""
    operands: Mapping[str, Value | tuple[Value, ...]]
    """Tensors in FP32 where the program has half."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes that the program gives its values."""
    arithmetic: Arithmetic
    """How it sums."""

    def has(self, name: str) -> bool:
        """Whether an operand was given."""
        return name in self.operands

    def tensor(self, name: str) -> Tensor:
        """A tensor; numbers become one of rank 0."""
        value = self.operands[name]
        if isinstance(value, Tensor):
            return value
        return torch.tensor(cast(float, value))

    def maybe_tensor(self, name: str) -> Tensor | None:
        """A tensor, None when it was not given."""
        return self.tensor(name) if self.has(name) else None

    def tensors(self, name: str) -> tuple[Tensor, ...]:
        """A list of tensors."""
        value = self.operands[name]
        assert isinstance(value, tuple)
        return tuple(part if isinstance(part, Tensor) else torch.tensor(part) for part in value)

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self.operands.get(name, default)
        if isinstance(value, Tensor):
            return float(value)
        if not isinstance(value, int | float):
            raise BundleError(f"operation '{self.name}' ({self.kind}): '{name}' is no number")
        return float(value)

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        return int(self.number(name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        return bool(self.operands.get(name, default))

    def text(self, name: str, default: str = "") -> str:
        """A word."""
        return str(self.operands.get(name, default))

    def integers(self, name: str) -> list[int]:
        """A list of whole numbers."""
        value = self.operands[name]
        if isinstance(value, tuple):
            return [int(cast(int, part)) for part in value]
        return [int(part) for part in self.tensor(name).reshape(-1).tolist()]

    def flags(self, name: str, count: int) -> list[bool]:
        """A list of true or false; all false when it was not given."""
        return [bool(part) for part in self.integers(name)] if self.has(name) else [False] * count
