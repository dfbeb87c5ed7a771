"""Pickles that ask for more than they are: refused before anything is built (issue 20, line 4; campaign F5, F27)."""

import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from cdm_export.cli import run_command
from cdm_export.reference_model.checkpoint import read_checkpoint
from cdm_export.runtimes.errors import CheckpointError

P2 = b"\x80\x02"
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def long_ones() -> dict[str, bytes]:
    """Pickles of a few bytes, by what they ask for."""
    doubled = b"N" + b"2\x86" * 100
    copies = b"X" + struct.pack("<I", 60_000) + b"a" * 60_000 + b"q\x010"
    encode = b"c_codecs\nencode\nq\x020"
    copied = copies + encode + b"](" + b"h\x02h\x01X\x06\0\0\0latin1\x86R" * 20_000 + b"e."
    return {
        "memo index": P2 + b"Nr\x00\x00\x80\x00.",
        "text memo index": P2 + b"Np8388608\n.",
        "byte array": P2 + b"\x96" + struct.pack("<Q", 2**26) + b".",
        "text": P2 + b"X" + struct.pack("<I", 2**31) + b"a.",
        "long text": P2 + b"\x8d" + struct.pack("<Q", 2**62) + b"a.",
        "bytes": P2 + b"\x8e" + struct.pack("<Q", 2**63) + b"a.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
        "integer": P2 + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\1.",
        "negative integer": P2 + b"\x8b" + struct.pack("<i", -5) + b"\1.",
        "digits": P2 + b"L" + b"9" * 200_000 + b"L\n.",
        "nesting": P2 + b"]" * 5000 + b"a" * 4999 + b".",
        "nested tuples": P2 + b"N" + b"\x85" * 100_000 + b".",
        "key of shared parts": P2 + b"}" + doubled + b"Ns.",
        "set of shared parts": b"\x80\x04\x8f(" + doubled + b"\x90.",
        "copies": P2 + copied,
        "nothing on the stack": P2 + b"a.",
        "no mark": P2 + b"u.",
        "no end": P2 + b"N",
        "no memo": P2 + b"h\x05.",
        "names": P2 + b"".join(b"cm%d\nn\n0" % index for index in range(5000)) + b"N.",
    }


def zipped(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
    return path


@pytest.mark.parametrize("asked", list(long_ones()))
@pytest.mark.parametrize("place", ["bare", "zip", "legacy"])
def test_refused_without_memory(tmp_path: Path, asked: str, place: str) -> None:
    data = long_ones()[asked]
    path = tmp_path / "m.pth"
    if place == "zip":
        zipped(path, data)
    else:
        path.write_bytes(data if place == "bare" else MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.exit_code == 2 and caught.value.next_step and str(path) in caught.value.message
    assert len(caught.value.message.splitlines()) == 1 and len(caught.value.message) < 1000
    assert peak < 2**24 + 100 * len(data)


def test_the_command_line_ends_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The 9 bytes of the campaign took 4.5 GB."""
    path = tmp_path / "m.pth"
    path.write_bytes(b"\x80\x02Nr\x00\x00\x00\x10.")
    assert run_command(["export", str(path), "--camera", "56x42", "-q", "-o", str(tmp_path / "z.bundle")]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "268,435,456" in said and "Nothing of it was built" in said


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_ordinary_pickles_pass(protocol: int) -> None:
    from cdm_export.reference_model.pickle_limits import check_pickle

    shared = ("a", 1.5, None)
    tree: dict[Any, Any] = {
        "numbers": [1, -1, 2**70, 1.0, True, None, 3 + 4j],
        "texts": ["", "x" * 300, "ä", b"", b"y" * 300, bytearray(b"z")],
        ("tuple", shared, (1, 2, 3, 4)): {frozenset((1, 2)), shared},
        "ordered": OrderedDict(a=[shared, shared]),
        "type": Path,
        "object": slice(1, 2),
    }
    tree["itself"] = tree
    data = pickle.dumps(tree, protocol)
    assert check_pickle(data) == len(data) == check_pickle(b"ab" + data + b"more", 2) - 2


@pytest.mark.parametrize("number", [2**87, -(2**87), 2**63, 2**45])
@pytest.mark.parametrize("where", ["size", "stride", "offset", "numel"])
def test_absurd_sizes_of_a_tensor_are_one_line(tmp_path: Path, where: str, number: int) -> None:
    class Describes(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            return (
                ("storage", torch.FloatStorage, "0", "cpu", number if where == "numel" else 3) if obj is mark else None
            )

    class Tensor:
        def __reduce__(self) -> Any:
            numbers = [
                number if where == each else least for each, least in (("offset", 0), ("size", 2), ("stride", 1))
            ]
            return torch._utils._rebuild_tensor_v2, (mark, numbers[0], (numbers[1],), (numbers[2],), False, {})

    mark = object()
    with (tmp_path / "data.pkl").open("wb") as file:
        Describes(file, protocol=2).dump({"a": Tensor()})
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.write(tmp_path / "data.pkl", "a/data.pkl")
        archive.writestr("a/data/0", bytes(12))
    with pytest.raises(CheckpointError, match="cannot be rebuilt") as caught:
        read_checkpoint(tmp_path / "w.pt")
    assert len(caught.value.message.splitlines()) == 1 and len(caught.value.message) < 400
