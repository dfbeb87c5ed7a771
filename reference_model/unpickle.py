"""Tensors out of PyTorch checkpoint files, without executing anything that is in them.

A pickle is a program: it names globals and calls them. Published checkpoints name many (paths, namespaces, callbacks),
so ``torch.load(weights_only=True)`` refuses them and ``weights_only=False`` would run them. Here a pickle can reach
nothing: the few names that describe tensors stand for objects of this file, every other name stands for ``Ignored``,
which swallows whatever is done with it. Nothing is imported and nothing of PyTorch is called while unpickling.

Tensors come out as descriptions first and become views of the memory-mapped file when asked for, so that a file is held
once, as pages the system can drop, and optimizer states are never read.
"""

import io
import mmap
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from cdm_export.reference_model.pickle_limits import check_pickle
from cdm_export.reference_model.stored_arrays import ARRAY_GLOBALS, StoredArray
from cdm_export.runtimes.errors import CheckpointError

RESAVE = "Save it again with a current PyTorch: torch.save(network.state_dict(), 'weights.pt')"
_FROM_NUMPY = (
    'Save them as tensors: python -c "import numpy, torch; '
    "torch.save({k: torch.from_numpy(v) for k, v in numpy.load('FILE.npz').items()}, 'weights.pt')\""
)
_DOWNLOAD_AGAIN = "Download or copy the file again and compare its size with the source."
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Zip local file header: signature, then the lengths of the name and of the extra field that precede the data."""
_MAX_NAME = 512
"""Characters of a foreign global's module and name."""
_MAX_FOREIGN = 2000
"""Foreign globals in one file; a training framework's whole configuration has some 50."""
_MAX_DIMENSIONS = 64

_DTYPES: dict[str, torch.dtype] = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


class _Absorbing(type):
    """Every opcode that acts on an object does nothing, and the result of everything is the class itself."""

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        return cls

    def __setstate__(cls, state: object) -> None: ...

    def __setitem__(cls, key: object, value: object) -> None: ...

    def _swallow(cls, *args: object) -> None: ...

    append = extend = add = _swallow


class Ignored(metaclass=_Absorbing):
    """Stands for every foreign class, function and object in a pickle. A class, because NEWOBJ insists on one."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        """The class itself; NEWOBJ comes here, past the metaclass."""
        return cls


class _Dict(dict[Any, Any]):
    """Stands for OrderedDict. BUILD ends in ``__setstate__``, so that attributes are dropped and none is planted."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None: ...


class _Storage(NamedTuple):
    """Where a tensor's numbers are: ``numel`` elements of ``dtype`` in the record called ``key``."""

    key: str
    dtype: torch.dtype
    numel: int


class _Record(NamedTuple):
    """Where a storage's bytes are in the file."""

    start: int
    """First byte."""
    stop: int
    """End."""
    crc32: int | None
    """What the file says their CRC-32 is; None where it does not: the older format, and what was saved without."""


class StoredTensor(NamedTuple):
    """A tensor as the pickle describes it, unchecked: ``TorchFile.tensor`` turns it into one or raises."""

    storage: _Storage
    offset: int
    """First element, counted in elements from the start of the storage."""
    size: tuple[int, ...]
    """Shape."""
    stride: tuple[int, ...]
    """Elements between neighbors, per dimension."""


class _RebuildTensor:
    """Stands for PyTorch's function of that name. Without attributes: BUILD finds nothing to change."""

    __slots__ = ()

    def __call__(self, storage: object, offset: int, size: Any, stride: Any, *rest: object) -> Any:
        return StoredTensor(storage, offset, size, stride) if isinstance(storage, _Storage) else Ignored


class _RebuildFromType:
    """A tensor with Python attributes, or of a subclass, is the tensor; the rest is dropped."""

    __slots__ = ()

    def __call__(self, rebuild: object, kind: object, arguments: Any, *rest: object) -> Any:
        return rebuild(*arguments) if isinstance(rebuild, (_RebuildTensor, _RebuildParameter)) else Ignored


class _TensorKind:
    """Stands for the classes of tensors, which are only named."""

    __slots__ = ()


class _Size:
    """Stands for torch.Size. The tuple itself: every copy would be memory that the file does not have."""

    __slots__ = ()

    def __call__(self, size: object = (), *rest: object) -> Any:
        return size if isinstance(size, tuple) else Ignored


class _RebuildParameter:
    """A parameter is its tensor; gradient flag, hooks and attributes are dropped."""

    __slots__ = ()

    def __call__(self, data: object, *rest: object) -> object:
        return data


# BUILD could set attributes on a class or a function for the rest of the process, so none that allows it is in here.
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch", "Size"): _Size(),
    ("torch", "Tensor"): _TensorKind(),
    ("torch.nn.parameter", "Parameter"): _TensorKind(),
    ("torch.nn.parameter", "Buffer"): _TensorKind(),
    ("torch._tensor", "_rebuild_from_type_v2"): _RebuildFromType(),
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _DTYPES.values()},
    **ARRAY_GLOBALS,
    # Storages name their dtype and nothing else here; old files saved from a GPU say torch.cuda.
    **{(module, f"{name}Storage"): dtype for module in ("torch", "torch.cuda") for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reaches nothing but this file; notes the storages and the foreign names it met."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 strings of any content; names of tensors are ASCII
        self.ignored: dict[str, None] = {}
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        known = _GLOBALS.get((module, name))
        if known is None:
            if len(module) + len(name) > _MAX_NAME or len(self.ignored) > _MAX_FOREIGN:
                raise ValueError("it names more foreign objects than any training code has")
            self.ignored[f"{module}.{name}"] = None
            return Ignored
        return known

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] != "storage":  # old files: the source code of a pickled module
            return Ignored
        dtype, key, _location, numel, *view = pid[1:]
        if any(view):
            raise CheckpointError("written by PyTorch older than 0.4, which stored views of tensors", RESAVE)
        if not isinstance(dtype, torch.dtype):
            return Ignored
        if not isinstance(key, str):
            raise ValueError("a storage has no name")
        self.storages[key] = _Storage(key, dtype, numel)
        return self.storages[key]


@dataclass(frozen=True, eq=False)
class TorchFile:
    """What a checkpoint file holds. Do not overwrite the file while tensors of it are in use: it is mapped."""

    tree: Any
    """The pickled object: plain containers and values, ``StoredTensor`` and ``Ignored``."""
    ignored: tuple[str, ...]
    """Foreign globals that were met and not touched, each once, as the file spells them; torch.save mostly writes the
    Python 2 spelling, ``__builtin__.eval``."""
    mapped: torch.UntypedStorage
    """The whole file, private (writes never reach the disk)."""
    records: dict[str, _Record]
    """Storages in the file, by key."""
    intact: set[str] = field(default_factory=set)
    """Keys of the storages whose CRC-32 was found to be right."""

    def start(self, stored: StoredTensor) -> int:
        """First byte of a tensor in the file. Only after ``tensor`` returned it."""
        return self.records[stored.storage.key].start + stored.offset * stored.storage.dtype.itemsize

    def tensor(self, stored: StoredTensor | StoredArray) -> Tensor:
        """View of the file, or, of a NumPy array, which lies in the pickle, a copy.

        Raises CheckpointError when the description leaves its storage, or the storage's CRC-32 is not the file's own.
        """
        if isinstance(stored, StoredArray):
            return stored.tensor()
        storage = stored.storage
        self._check(storage.key)
        try:
            start, stop, _ = self.records[storage.key]
            if not isinstance(storage.numel, int):
                raise TypeError(f"the size of storage {storage.key} is no integer")
            nbytes = storage.numel * storage.dtype.itemsize
            if not 0 <= nbytes <= stop - start:
                raise ValueError(f"storage {storage.key} should have {_short(nbytes)} bytes, has {stop - start}")
            for what, numbers in (("size", stored.size), ("stride", stored.stride), ("offset", (stored.offset,))):
                _refuse_no_integers(what, numbers, nbytes)
            data = self.mapped[start : start + nbytes]
            if start % storage.dtype.itemsize:
                data = data.clone()  # legacy files align nothing
            elements = torch.empty(0, dtype=storage.dtype).set_(data)
            return elements.as_strided(stored.size, stored.stride, stored.offset)  # checks that it stays in there
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__  # PyTorch adds a C++ backtrace
            raise CheckpointError(f"a tensor of the checkpoint cannot be rebuilt: {first}", _DOWNLOAD_AGAIN) from error

    def _check(self, key: str) -> None:
        """Every byte of a storage, once, though it may be shared by many tensors."""
        record = self.records.get(key)
        if record is None or record.crc32 is None or key in self.intact or record.stop == record.start:
            return
        view = torch.empty(0, dtype=torch.uint8).set_(self.mapped[record.start : record.stop])
        found = zlib.crc32(view.numpy().data)
        if found != record.crc32:
            raise CheckpointError(
                f"record data/{key} of the checkpoint is damaged: the CRC-32 of its {view.numel():,} bytes is "
                f"{found:08x}, the file says {record.crc32:08x}",
                _DOWNLOAD_AGAIN,
            )
        self.intact.add(key)


def _refuse_no_integers(what: str, numbers: object, nbytes: int) -> None:
    """Anything PyTorch would take badly: other types, and numbers that no tensor of a storage so large can have."""
    if not isinstance(numbers, tuple) or len(numbers) > _MAX_DIMENSIONS:
        raise TypeError(f"its {what} is no list of numbers")
    for number in numbers:
        if not isinstance(number, int):
            raise TypeError(f"its {what} holds a {type(number).__name__}, expected integers")
        if abs(number) > max(nbytes, 2**40):  # a side of 1 may have any stride
            raise ValueError(f"its {what} is {_short(number)}, its storage has {nbytes:,} bytes")


def _short(number: int) -> str:
    return f"{number:,}" if abs(number) < 10**15 else f"about 2**{number.bit_length() - 1}"


def read_torch_file(path: Path) -> TorchFile:
    """File written by ``torch.save``, the zip format or the older one.

    Raises CheckpointError when it is truncated, damaged, or not such a file.
    """
    with path.open("rb") as file:
        read = _read_zip if file.read(2) == b"PK" else _read_legacy
        file.seek(0)
        try:
            unpickler, tree, records = read(file)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", error.next_step) from error
        except Exception as error:  # a damaged pickle can raise anything; whatever it is, the file is unusable
            first = str(error).splitlines()[0][:500] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path} is truncated or damaged ({path.stat().st_size} bytes): {first}", _DOWNLOAD_AGAIN
            ) from error
    mapped = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    return TorchFile(tree, tuple(unpickler.ignored), mapped.untyped_storage(), records)


_Contents = tuple[_Unpickler, Any, dict[str, _Record]]


def _read_zip(file: IO[bytes]) -> _Contents:
    """One folder with ``data.pkl`` and uncompressed storages ``data/KEY``."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next((name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")), None)
        if root is None:
            shown = ", ".join(list(entries)[:4])
            if entries and all(name.endswith(".npy") for name in entries):
                raise CheckpointError(f"NumPy arrays (.npz); it holds: {shown}", _FROM_NUMPY)
            raise CheckpointError(f"a zip archive, but not one written by torch.save; it holds: {shown}", RESAVE)
        if any(name.startswith(f"{root}code/") for name in entries):
            raise CheckpointError("a TorchScript program; expected the weights of the network", RESAVE)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise CheckpointError("repacked with compression; torch.save stores its records as they are", RESAVE)
        end = archive.start_dir
    located = {name: _locate(file, entry, end) for name, entry in entries.items()}
    if f"{root}byteorder" in entries and _content(file, located[f"{root}byteorder"]) != b"little":
        raise CheckpointError("written on a big-endian machine; expected little-endian numbers", RESAVE)
    data = f"{root}data/"
    records = {name.removeprefix(data): record for name, record in located.items() if name.startswith(data)}
    unpickler, tree, _ = _load(_content(file, located[f"{root}data.pkl"]), 0)
    return unpickler, tree, records


def _load(data: bytes | mmap.mmap, start: int) -> tuple[_Unpickler, Any, int]:
    """Build the pickle at byte ``start`` after its cost was found to be that of its size; also where it ends."""
    end = check_pickle(data, start)
    unpickler = _Unpickler(io.BytesIO(data[start:end]))
    return unpickler, unpickler.load(), end


def _locate(file: IO[bytes], entry: zipfile.ZipInfo, end: int) -> _Record:
    """Where an uncompressed record is, after its header was compared with the directory, which begins at ``end``."""
    file.seek(entry.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\3\4" or start + entry.file_size > end:
        raise ValueError(f"record {entry.filename} is not where the directory of the file says")
    # PyTorch writes 0 when it was told to compute none (torch.serialization.set_crc32_options).
    return _Record(start, start + entry.file_size, entry.CRC or None)


def _content(file: IO[bytes], record: _Record) -> bytes:
    """A small record's bytes. Raises ValueError when their CRC-32 is not what the file says."""
    file.seek(record.start)
    content = file.read(record.stop - record.start)
    if record.crc32 is not None and zlib.crc32(content) != record.crc32:
        raise ValueError(f"the CRC-32 of its description is not {record.crc32:08x} as the file says")
    return content


def _read_legacy(file: IO[bytes]) -> _Contents:
    """Five pickles (magic, version, machine, object, storage keys), then per key an element count and the elements."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _, magic, position = _load(data, 0)
        if not isinstance(magic, int) or magic != _LEGACY_MAGIC:
            raise CheckpointError("a pickle, but not one written by torch.save", RESAVE)
        for _ in ("version", "machine"):
            _, _, position = _load(data, position)
        unpickler, tree, position = _load(data, position)
        _, keys, position = _load(data, position)
    end = file.seek(0, 2)
    records: dict[str, _Record] = {}
    for key in keys if isinstance(keys, list) else ():
        file.seek(position)
        (numel,) = struct.unpack("<q", file.read(8))
        start, position = position + 8, position + 8 + numel * unpickler.storages[key].dtype.itemsize
        if not start <= position <= end:
            raise ValueError(f"storage {key} ends at byte {position}")
        records[key] = _Record(start, position, None)
    return unpickler, tree, records
