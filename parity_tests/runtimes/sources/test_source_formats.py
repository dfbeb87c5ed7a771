"""Depth files people have: read right, or refused by the format's own name; headers are judged before memory is."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources import open_source, read_color, read_depth
from parity_tests.frame_files import DEPTH, folder_of, refusal

METERS = (DEPTH / 1000).astype(np.float32)


@pytest.mark.parametrize("shape", [(12, 16, 1), (1, 12, 16), (12, 16)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_with_a_third_axis_of_one(tmp_path: Path, shape: tuple[int, ...], order: Any) -> None:
    np.save(tmp_path / "d.npy", np.asarray(METERS.reshape(shape), order=order))
    assert np.array_equal(read_depth(tmp_path / "d.npy", 1000)[1], METERS)


@pytest.mark.parametrize("shape", [(1, 192, 1), (2, 6, 16), (12, 16, 1, 1)])
def test_other_axes_leave_it_open(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "d.npy", METERS.reshape(shape))
    assert "is not a depth image" in refusal(lambda: read_depth(tmp_path / "d.npy", 1000))


def npy(header: str, body: bytes = b"", version: bytes = b"\1\0") -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


HEADERS = {
    "unclosed": "{'descr': '<f4', 'fortran_order': False, 'shape': (240, 320\n",
    "too large for C": "{'descr': '<f4', 'fortran_order': False, 'shape': (2**70,), }\n",
    "a literal too large for C": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70}, 2), }}\n",
    "gigabytes": "{'descr': '<f8', 'fortran_order': False, 'shape': (60000, 60000), }\n",
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }\n",
    "overflowing product": "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }\n",
    "fields": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 2), }\n",
    "no syntax": "{'descr': '<f4' 'x', }}}\n",
    "deep": "(" * 900 + "\n",
    "not a mapping": "[1, 2]\n",
    "unknown type": "{'descr': 'zz9', 'fortran_order': False, 'shape': (2, 2), }\n",
    "NUL": "{'descr': '<f4\0', 'fortran_order': False, 'shape': (2, 2), }\n",
    "too many digits": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 6000 + ",), }\n",
    "true": "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }\n",
    "empty": "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }\n",
    "no width": "{'descr': '|S0', 'fortran_order': False, 'shape': (4, 4), }\n",
}


@pytest.mark.parametrize("header", HEADERS)
def test_malformed_npy_headers(tmp_path: Path, header: str) -> None:
    (tmp_path / "d.npy").write_bytes(npy(HEADERS[header], bytes(64)))
    tracemalloc.start()
    try:
        message = refusal(lambda: read_depth(tmp_path / "d.npy", 1000))
        assert tracemalloc.get_traced_memory()[1] < 20e6, "memory is not asked for before the header is judged"
    finally:
        tracemalloc.stop()
    assert "d.npy is not" in message and len(message) < 600


def test_npy_that_was_cut_says_both_sizes(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", METERS)
    whole = (tmp_path / "d.npy").read_bytes()
    for data in (whole[:-4], whole + b"1234"):
        (tmp_path / "d.npy").write_bytes(data)
        assert f"{METERS.nbytes} bytes" in refusal(lambda: read_depth(tmp_path / "d.npy", 1000))


def test_one_malformed_file_does_not_end_the_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b", "c")
    (folder / "b.depth.png").unlink()
    (folder / "b.depth.npy").write_bytes(npy(HEADERS["unclosed"]))
    source = open_source(str(folder))
    loaded, bad = [], []
    for index, name in enumerate(source.names):
        try:
            loaded.append(source.load(index).name)
        except InputError as error:
            bad.append((name, error.message))
    assert loaded == ["a", "c"] and bad[0][0] == "b" and "header" in bad[0][1]


def isobmff(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + bytes(500)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("blender.exr", b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(200), "OpenEXR"),
        ("renamed.png", b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(200), "OpenEXR"),
        ("realsense.raw", DEPTH.tobytes(), "raw bytes"),
        ("phone.heic", isobmff(b"heic"), "HEIC"),
        ("renamed.jpg", isobmff(b"mif1"), "HEIC"),
        ("v.mp4", isobmff(b"isom"), "a video"),
        ("one.mp4", b"x", "a video"),
        ("v.mkv", b"\x1a\x45\xdf\xa3" + bytes(100), "a video"),
        ("d.npz", b"PK\x03\x04" + bytes(100), "an archive of arrays"),
        ("d.bag", b"#ROSBAG V2.0\n", "a recording"),
        ("c.dng", b"II*\0" + bytes(100), "raw format"),
        ("lfs.png", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        ("page.png", b"<!DOCTYPE html><html>", "HTML"),
    ],
)
def test_refused_by_the_name_of_the_format(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    for read in (lambda: read_depth(tmp_path / name, 1000), lambda: read_color(tmp_path / name)):
        message = refusal(read)
        assert said in message and "not read" in message and message.splitlines()[1].startswith("Convert it: ")


def test_raw_conversion_line_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "realsense.raw").write_bytes(DEPTH.tobytes())
    message = refusal(lambda: read_depth(tmp_path / "realsense.raw", 1000))
    command = message[message.index('"') + 1 : message.rindex('"')]
    monkeypatch.chdir(tmp_path)
    exec(command.replace("HEIGHT", "12").replace("WIDTH", "16"))
    assert np.array_equal(read_depth(tmp_path / "realsense.npy", 1000)[0], DEPTH)


def pfm(array: NDArray[np.float32], scale: str, order: str) -> bytes:
    height, width = array.shape
    return f"Pf\n{width} {height}\n{scale}\n".encode() + array[::-1].astype(f"{order}f4").tobytes()


@pytest.mark.parametrize(("scale", "order"), [("-1.0", "<"), ("1.0", ">"), ("-1", "<")])
def test_pfm_of_scale_one_is_meters(tmp_path: Path, scale: str, order: str) -> None:
    (tmp_path / "d.pfm").write_bytes(pfm(METERS, scale, order))
    assert np.array_equal(read_depth(tmp_path / "d.pfm", 1000)[1], METERS)


@pytest.mark.parametrize("scale", ["-0.003922", "255", "-2"])
def test_pfm_of_another_scale_is_refused(tmp_path: Path, scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.pfm").write_bytes(pfm(METERS, scale, "<" if scale[0] == "-" else ">"))
    message = refusal(lambda: read_depth(tmp_path / "d.pfm", 1000))
    assert "PFM whose scale line is" in message
    monkeypatch.chdir(tmp_path)
    exec(message[message.index('"') + 1 : message.rindex('"')])
    assert np.allclose(np.load(tmp_path / "d.npy"), METERS, rtol=1e-6), "the line gives the stored numbers"


def test_devices_and_pipes_are_refused(tmp_path: Path) -> None:
    assert "device or a pipe" in refusal(lambda: read_depth(Path("/dev/zero"), 1000))
    os.mkfifo(tmp_path / "p.png")
    assert "device or a pipe" in refusal(lambda: read_color(tmp_path / "p.png"))


def test_frames_json_is_still_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    np.save(folder / "d.npy", METERS[None])
    (folder / "frames.json").write_text(json.dumps({"frames": [{"color": "a.color.png", "depth": "d.npy"}]}))
    assert np.array_equal(open_source(str(folder)).load(0).frame.depth, METERS)
    assert cv2.imread(str(folder / "a.color.png")) is not None
