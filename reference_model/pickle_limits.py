"""What a pickle would cost, found by walking it opcode by opcode before anything of it is built.

A pickle of nine bytes can ask for gigabytes: CPython makes a table as long as the largest memo index, a byte array as
long as its header says, and hashes what is a key, which for tuples that share their parts is exponential. Every such
number is held here against the bytes and operations that are really there. Nothing is allocated for what is refused.
"""

import mmap
import pickletools
from typing import NamedTuple

from cdm_export.runtimes.errors import CheckpointError

MAX_OPERATIONS = 3_000_000
"""Opcodes of one pickle. The largest real ones, with optimizer states and histories, have some 100,000; one opcode
builds at most some 200 bytes."""
MAX_DEPTH = 1000
"""Containers inside one another; real checkpoints have some 20."""
MAX_KEY = 1000
"""Objects in the key of a mapping, shared parts counted as often as they are hashed."""
_MAX_LINE = 65536
"""Bytes of an argument that ends with its line (protocol 0, names of globals)."""
_MAX_DIGITS = 1000
"""Digits, or bytes, of an integer: turning text into numbers takes quadratic time."""
_MAX_WORK = 100
"""Objects handed to calls, per byte of the pickle: a large object must not be copied by every opcode."""

_TEXT_INTEGERS = {"INT", "LONG", "GET", "PUT", "FLOAT"}
_LENGTHS = {  # bytes of the length that precedes an argument, and whether it is signed
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}


class _Opcode(NamedTuple):
    name: str
    argument: int
    """Bytes of the argument, or one of the negative codes of pickletools."""


_OPCODES: dict[int, _Opcode] = {
    ord(opcode.code): _Opcode(opcode.name, opcode.arg.n if opcode.arg is not None else 0)
    for opcode in pickletools.opcodes
}


class _Cell:
    """An object that the pickle would build, of which only its extent is kept."""

    __slots__ = ("depth", "weight")

    def __init__(self, depth: int, weight: int) -> None:
        self.depth = depth
        """Containers inside one another below it."""
        self.weight = weight
        """Objects in it, shared ones counted each time, and eighths of the bytes of its texts."""


_ATOM = _Cell(0, 1)
_PUSHED = frozenset(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"))
_NO_STACK = frozenset(("PROTO", "FRAME"))
_GATHERED = frozenset(("TUPLE", "LIST", "DICT", "FROZENSET"))
_SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CALLS = {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "STACK_GLOBAL": 2, "BINPERSID": 1}
"""Opcodes that make one object of so many, by calling something."""


def check_pickle(data: bytes | mmap.mmap, start: int = 0) -> int:
    """Walk the pickle that begins at byte ``start`` of ``data``; return where it ends.

    Raises ValueError when the pickle is truncated or contradicts itself, CheckpointError when building it would cost
    more than a checkpoint of its size can.
    """
    return _Walk(data, start).run()


class _Walk:
    def __init__(self, data: bytes | mmap.mmap, start: int) -> None:
        self.data = data
        self.start = self.position = start
        self.stack: list[_Cell] = []
        self.outer: list[list[_Cell]] = []
        """Stacks below each open mark."""
        self.memo: dict[int, _Cell] = {}
        self.operations = 0
        self.work = 0

    def run(self) -> int:
        """To the STOP opcode."""
        size = len(self.data)
        while True:
            if self.position >= size:
                raise ValueError("its pickle has no end")
            self.at = self.position
            opcode = _OPCODES.get(self.data[self.position])
            if opcode is None:
                raise ValueError(f"byte {self.at} of its pickle is no opcode")
            self.position += 1
            self.operations += 1
            if self.operations > MAX_OPERATIONS:
                raise _costs(f"more than {MAX_OPERATIONS:,} operations")
            length = self._argument(opcode)
            if opcode.name == "STOP":
                return self.position
            try:
                self._apply(opcode.name, length)
            except IndexError:
                raise ValueError(f"{opcode.name} at byte {self.at} of its pickle has nothing to act on") from None

    def _argument(self, opcode: _Opcode) -> int:
        """Step over the argument; its bytes, without its length's."""
        kind = opcode.argument
        if kind >= 0:
            return self._step(kind, opcode)
        if kind == pickletools.UP_TO_NEWLINE:
            lines = 2 if opcode.name in ("GLOBAL", "INST") else 1
            return sum(self._line(opcode) for _ in range(lines))
        width, signed = _LENGTHS[kind]
        self._step(width, opcode)
        length = int.from_bytes(self.data[self.position - width : self.position], "little", signed=signed)
        if opcode.name in ("LONG1", "LONG4") and length > _MAX_DIGITS:
            raise _costs(f"an integer of {length:,} bytes")
        return self._step(length, opcode)

    def _step(self, length: int, opcode: _Opcode) -> int:
        left = len(self.data) - self.position
        if not 0 <= length <= left:
            raise ValueError(f"{opcode.name} at byte {self.at} of its pickle wants {length:,} bytes, {left:,} are left")
        self.position += length
        return length

    def _line(self, opcode: _Opcode) -> int:
        limit = _MAX_DIGITS if opcode.name in _TEXT_INTEGERS else _MAX_LINE
        end = self.data.find(b"\n", self.position, self.position + limit + 1)
        if end < 0:
            raise ValueError(f"{opcode.name} at byte {self.at} of its pickle has no end of line")
        length, self.position = end - self.position, end + 1
        return length

    def _apply(self, name: str, length: int) -> None:
        """Do to the extents what the opcode does to the objects."""
        stack = self.stack
        if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            index = len(self.memo) if name == "MEMOIZE" else self._index(name, length)
            if index >= self.operations:
                raise _costs(f"a table of {index:,} objects after {self.operations:,} operations")
            self.memo[index] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            cell = self.memo.get(self._index(name, length))
            if cell is None:
                raise ValueError(f"{name} at byte {self.at} of its pickle names an object that is not there")
            stack.append(cell)
        elif name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name in _PUSHED:
            stack.append(_Cell(0, 1))
        elif name in _SHORT_TUPLES:
            count = _SHORT_TUPLES[name]
            stack.append(self._made(self._pop(count)))
        elif name in _GATHERED:
            parts = self._marked()
            if name != "TUPLE" and name != "LIST":
                self._hashed(parts if name == "FROZENSET" else parts[::2])
            self.stack.append(self._made(parts))
        elif name in ("APPEND", "BUILD"):
            self._put_into(stack, self._pop(1))
        elif name == "SETITEM":
            pair = self._pop(2)
            self._hashed(pair[:1])
            self._put_into(stack, pair)
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            parts = self._marked()
            if name != "APPENDS":
                self._hashed(parts if name == "ADDITEMS" else parts[::2])
            self._put_into(self.stack, parts)
        elif name in _CALLS:
            self._call(self._pop(_CALLS[name]))
        elif name in ("INST", "OBJ"):
            self._call(self._marked())
        elif name == "POP":
            if stack:
                stack.pop()
            else:
                self.stack = self.outer.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name not in _NO_STACK:
            stack.append(_ATOM if length < 8 else _Cell(0, 1 + length // 8))

    def _index(self, name: str, length: int) -> int:
        text = bytes(self.data[self.at + 1 : self.at + 1 + length])
        return int(text) if name in ("PUT", "GET") else int.from_bytes(text, "little")

    def _pop(self, count: int) -> list[_Cell]:
        if count > len(self.stack):
            raise IndexError
        parts = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return parts

    def _marked(self) -> list[_Cell]:
        parts, self.stack = self.stack, self.outer.pop()
        return parts

    def _made(self, parts: list[_Cell]) -> _Cell:
        cell = _Cell(0, 1)
        self._extend(cell, parts)
        return cell

    def _put_into(self, stack: list[_Cell], parts: list[_Cell]) -> None:
        # What a literal stands for is shared by all of them; whatever is put into it fails later.
        if stack[-1] is not _ATOM:
            self._extend(stack[-1], parts)

    def _extend(self, cell: _Cell, parts: list[_Cell]) -> None:
        for part in parts:
            cell.depth = max(cell.depth, part.depth + 1)
            cell.weight += part.weight
        if cell.depth > MAX_DEPTH:
            raise _costs(f"more than {MAX_DEPTH:,} containers inside one another")

    def _hashed(self, keys: list[_Cell]) -> None:
        # A text is hashed in one go, however long: only what has parts can be counted more than once.
        if any(key.depth and key.weight > MAX_KEY for key in keys):
            raise _costs(f"a key of more than {MAX_KEY:,} objects")

    def _call(self, parts: list[_Cell]) -> None:
        self.work += sum(part.weight for part in parts)
        if self.work > _MAX_WORK * (len(self.data) - self.start) + 1_000_000:
            raise _costs("copies of what it shares, many times its own size")
        self.stack.append(self._made(parts))


def _costs(what: str) -> CheckpointError:
    return CheckpointError(
        f"its pickle asks for {what}: no training code writes that. Nothing of it was built",
        "Do not load this file elsewhere. Get the weights from a source you trust, best as .safetensors.",
    )
