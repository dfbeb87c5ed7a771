"""NumPy arrays of a pickle, rebuilt without NumPy's own functions being called by it.

An array in a pickle is a call of ``_reconstruct`` and a state: shape, type, order, bytes. The stand-ins here keep the
state, and make an array of it only when its type is one of numbers and its bytes are as many as its shape says.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdm_export.runtimes.errors import CheckpointError

_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
"""NumPy's codes of the types that PyTorch has too."""


class StoredType:
    """Stands for ``numpy.dtype``, and for what it returns."""

    __slots__ = ("code", "order")

    def __init__(self, code: object = "", *rest: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


class StoredArray:
    """An array as the pickle describes it, unchecked."""

    __slots__ = ("state",)

    def __init__(self, *state: object) -> None:
        self.state = state

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 5:  # version, shape, type, Fortran order, bytes
            self.state = state[1:]

    @property
    def size(self) -> object:
        """Shape, as the pickle has it."""
        return self.state[0] if self.state else ()

    def tensor(self) -> Tensor:
        """The numbers, in memory of their own. Raises CheckpointError when type, shape and bytes do not agree."""
        try:
            shape, kind, fortran, data = self.state
            if not isinstance(kind, StoredType) or kind.code not in _TYPES:
                raise TypeError(f"its type is {getattr(kind, 'code', 'unknown')!r}")
            if not isinstance(shape, tuple) or not isinstance(data, (bytes, bytearray)):
                raise TypeError("its description is not one of an array of numbers")
            dtype = np.dtype(f"{'<' if kind.order != '>' else '>'}{kind.code}")
            if not all(isinstance(side, int) and side >= 0 for side in shape) or len(shape) > 32:
                raise ValueError("its shape is no shape")
            if math.prod(shape) * dtype.itemsize != len(data):
                raise ValueError(f"{len(data):,} bytes do not make the shape {list(shape)}")
            array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
            return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"a NumPy array of the checkpoint cannot be rebuilt: {str(error).splitlines()[0]}",
                "Save its numbers as float32 tensors: torch.save({name: torch.from_numpy(array), ...}, 'weights.pt')",
            ) from error


class Reconstruct:
    """Stands for NumPy's function of that name: an array whose state follows."""

    __slots__ = ()

    def __call__(self, *rest: object) -> StoredArray:
        """An array without a state."""
        return StoredArray()


class FromBuffer:
    """Stands for NumPy's ``_frombuffer`` (protocol 5): bytes, type, shape, order."""

    __slots__ = ()

    def __call__(self, data: object = b"", kind: object = None, shape: object = (), order: object = "C") -> StoredArray:
        """An array with its state."""
        return StoredArray(shape, kind, order == "F", data)


class Encode:
    """Stands for ``_codecs.encode``, by which protocol 2 spells bytes."""

    __slots__ = ()

    def __call__(self, text: object = "", encoding: object = "latin1", *rest: object) -> object:
        """The bytes; empty for another encoding."""
        return text.encode("latin1") if isinstance(text, str) and encoding == "latin1" else b""


ARRAY_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): StoredType,
    ("numpy", "ndarray"): StoredArray,
    ("_codecs", "encode"): Encode(),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Reconstruct() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): FromBuffer() for core in ("core", "_core")},
}
"""Stand-ins by the names that pickles use."""
