"""Tensors out of PyTorch checkpoint files, without executing anything that is in them.

A pickle is a program: it names globals and calls them. Published checkpoints name many (paths, namespaces, callbacks),
so ``torch.load(weights_only=True)`` refuses them and ``weights_only=False`` would run them. Here a pickle can reach
nothing: the few names that describe tensors stand for objects of this file, every other name stands for ``Ignored``,
which swallows whatever is done with it. Nothing is imported and nothing of PyTorch is called while unpickling.

Tensors come out as descriptions first and become views of the memory-mapped file when asked for, so that a file is held
once, as pages the system can drop, and optimizer states are never read.
"""

import io
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from cdm_export.runtimes.errors import CheckpointError

RESAVE = "Save it again with a current PyTorch: torch.save(network.state_dict(), 'weights.pt')"
_DOWNLOAD_AGAIN = "Download or copy the file again and compare its size with the source."
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Zip local file header: signature, then the lengths of the name and of the extra field that precede the data."""

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


class _RebuildParameter:
    """A parameter is its tensor; gradient flag, hooks and attributes are dropped."""

    __slots__ = ()

    def __call__(self, data: object, *rest: object) -> object:
        return data


# BUILD could set attributes on a class or a function for the rest of the process, so none that allows it is in here.
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _DTYPES.values()},
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

    def tensor(self, stored: StoredTensor) -> Tensor:
        """View of the file.

        Raises CheckpointError when the description leaves its storage, or the storage's CRC-32 is not the file's own.
        """
        storage = stored.storage
        self._check(storage.key)
        try:
            start, stop, _ = self.records[storage.key]
            nbytes = storage.numel * storage.dtype.itemsize
            if not 0 <= nbytes <= stop - start:
                raise ValueError(f"storage {storage.key} should have {nbytes} bytes, has {stop - start}")
            data = self.mapped[start : start + nbytes]
            if start % storage.dtype.itemsize:
                data = data.clone()  # legacy files align nothing
            elements = torch.empty(0, dtype=storage.dtype).set_(data)
            return elements.as_strided(stored.size, stored.stride, stored.offset)  # checks that it stays in there
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"a tensor of the checkpoint cannot be rebuilt: {error}", _DOWNLOAD_AGAIN) from error

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
            raise CheckpointError(
                f"{path} is truncated or damaged ({path.stat().st_size} bytes): {error}", _DOWNLOAD_AGAIN
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
    unpickler = _Unpickler(io.BytesIO(_content(file, located[f"{root}data.pkl"])))
    return unpickler, unpickler.load(), records


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
    magic, _version, _machine = (_Unpickler(file).load() for _ in range(3))
    if magic != _LEGACY_MAGIC:
        raise CheckpointError("a pickle, but not one written by torch.save", RESAVE)
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    keys = _Unpickler(file).load()
    position = file.tell()
    end = file.seek(0, 2)
    records: dict[str, _Record] = {}
    for key in keys:
        file.seek(position)
        (numel,) = struct.unpack("<q", file.read(8))
        start, position = position + 8, position + 8 + numel * unpickler.storages[key].dtype.itemsize
        if not start <= position <= end:
            raise ValueError(f"storage {key} ends at byte {position}")
        records[key] = _Record(start, position, None)
    return unpickler, tree, records
