"""Data sets: every layout in miniature, and what is said when something of it is missing."""

import shutil

import cv2
import numpy as np
import pytest

from cdm_export.evaluate.data import KINDS, Needs, TruthKind, open_data
from cdm_export.evaluate.data.stereo_layouts import read_pfm
from cdm_export.runtimes.errors import InputError
from parity_tests.frame_files import COLOR, DEPTH, write

PAIR, RGBD, MONO = Needs(right=True), Needs(depth=True), Needs()
UNITS = np.random.default_rng(0).integers(0, 2560, COLOR.shape[:2], dtype=np.uint16)
"""A disparity image as KITTI stores it: up to 10 pixels, 0 = none."""


def pfm(path, values, scale=-1.0):
    order = "<" if scale < 0 else ">"
    height, width = values.shape
    head = f"Pf\n{width} {height}\n{scale}\n".encode()
    path.write_bytes(head + values[::-1].astype(f"{order}f4").tobytes())


def kitti(root):
    for stem in ("000000_10", "000001_10", "000000_11"):
        write(root / "image_2" / f"{stem}.png", COLOR)
        write(root / "image_3" / f"{stem}.png", COLOR[::-1])
    for which, factor in (("occ", 1), ("noc", 0)):
        for stem in ("000000_10", "000001_10"):
            units = UNITS.copy()
            units[:, :8] *= factor
            write(root / f"disp_{which}_0" / f"{stem}.png", units)
    return root


def middlebury(scene, name="disp0GT.pfm"):
    write(scene / "im0.png", COLOR)
    write(scene / "im1.png", COLOR[::-1])
    pfm(scene / name, np.where(UNITS > 0, UNITS / 256, np.inf).astype(np.float32), scale=-0.003922)
    return scene


def tartanair(trajectory):
    write(trajectory / "image_left" / "000003_left.png", COLOR)
    write(trajectory / "image_right" / "000003_right.png", COLOR[::-1])
    (trajectory / "depth_left").mkdir()
    np.save(trajectory / "depth_left" / "000003_left_depth.npy", np.full(COLOR.shape[:2], 8, np.float32))
    return trajectory


def pairs(folder):
    write(folder / "a.left.png", COLOR)
    write(folder / "a.right.png", COLOR[::-1])
    return folder


def test_a_folder_of_pairs(tmp_path):
    pairs(tmp_path)
    truth = write(tmp_path / "a.disparity.png", UNITS)
    data = open_data(f"folder:{tmp_path}", PAIR, 1000.0)
    item = data.load(0)
    assert data.names == ("a",) and truth in data.files
    assert np.array_equal(item.truth, UNITS / np.float32(256))
    assert np.array_equal(item.source.frame.right, COLOR[::-1])
    truth.unlink()
    np.save(tmp_path / "a.disparity.npy", UNITS.astype(np.float32))
    assert open_data(f"folder:{tmp_path}", PAIR, 1000.0).load(0).truth.max() == UNITS.max()


@pytest.mark.parametrize("needs", [RGBD, MONO])
def test_a_folder_of_depth(tmp_path, needs):
    write(tmp_path / "a.color.png", COLOR)
    write(tmp_path / "a.depth.png", DEPTH)
    write(tmp_path / "a.truth.png", DEPTH[::-1])
    item = open_data(f"folder:{tmp_path}", needs, 500.0).load(0)
    assert np.array_equal(item.truth, DEPTH[::-1] / np.float32(500))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "a has no truth"),
        ({"a.truth.npy": DEPTH}, "a has a truth in depth, and what is evaluated gives disparity"),
        ({"a.disparity.npy": UNITS * 0.0}, "no pixel above 0"),
        ({"a.disparity.npy": np.full(COLOR.shape[:2], np.nan)}, "no pixel above 0"),
        ({"a.disparity.npy": UNITS[:4].astype(np.float32)}, "the truth is 16x4, the frame 16x12"),
    ],
)
def test_a_folder_without_a_truth_that_fits(tmp_path, files, said):
    pairs(tmp_path)
    for name, values in files.items():
        np.save(tmp_path / name, values)
    with pytest.raises(InputError, match=said):
        open_data(f"folder:{tmp_path}", PAIR, 1000.0).load(0)


def test_two_truths(tmp_path):
    pairs(tmp_path)
    write(tmp_path / "a.disparity.png", UNITS)
    np.save(tmp_path / "a.disparity.npy", UNITS)
    with pytest.raises(InputError, match="two files claim"):
        open_data(f"folder:{tmp_path}", PAIR, 1000.0)


def test_kitti(tmp_path):
    kitti(tmp_path / "training")
    everywhere = open_data(f"kitti-stereo-2015-occ:{tmp_path}", PAIR, 1000.0)
    assert everywhere.names == ("000000_10", "000001_10")  # the second images have no truth
    item = everywhere.load(1)
    assert np.array_equal(item.truth, UNITS / np.float32(256))
    assert np.array_equal(item.source.frame.right, COLOR[::-1])
    seen = open_data(f"kitti-stereo-2015-noc:{tmp_path / 'training'}", PAIR, 1000.0).load(0)
    assert not seen.truth[:, :8].any() and np.array_equal(seen.truth[:, 8:], item.truth[:, 8:])


@pytest.mark.parametrize("missing", ["image_3", "disp_occ_0", "image_2/000001_10.png", "image_3/000000_10.png"])
def test_kitti_says_what_is_missing(tmp_path, missing):
    gone = kitti(tmp_path) / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InputError, match=gone.name):
        open_data(f"kitti-stereo-2015-occ:{tmp_path}", PAIR, 1000.0)


def test_middlebury(tmp_path):
    middlebury(tmp_path / "Adirondack")
    middlebury(tmp_path / "Jadeplant", "disp0.pfm")
    mask = np.zeros(COLOR.shape[:2], np.uint8)
    mask[2:5] = 255
    mask[7:9] = 128  # occluded
    write(tmp_path / "Adirondack" / "mask0nocc.png", mask)
    data = open_data(f"middlebury:{tmp_path}", PAIR, 1000.0)
    assert data.names == ("Adirondack", "Jadeplant")
    one, other = data.load(0), data.load(1)
    assert np.array_equal(one.visible, mask == 255) and other.visible is None
    # Whatever the size of the scale line, as Middlebury says.
    assert np.array_equal(other.truth[UNITS > 0], (UNITS / 256)[UNITS > 0].astype(np.float32))
    (tmp_path / "Jadeplant" / "disp0.pfm").unlink()
    with pytest.raises(InputError, match=r"neither disp0GT\.pfm nor disp0\.pfm"):
        open_data(f"middlebury:{tmp_path}", PAIR, 1000.0)


@pytest.mark.parametrize("scale", [-1.0, 1.0])
def test_pfm_is_what_opencv_reads(tmp_path, scale):
    values = np.random.default_rng(1).random((5, 7)).astype(np.float32)
    pfm(tmp_path / "a.pfm", values, scale)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm"), values)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED), values)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"PF" + data[2:], lambda data: data[:9]])
def test_damaged_pfm(tmp_path, change):
    pfm(tmp_path / "a.pfm", np.ones((5, 7), np.float32))
    (tmp_path / "a.pfm").write_bytes(change((tmp_path / "a.pfm").read_bytes()))
    with pytest.raises(InputError, match=r"PFM|damaged"):
        read_pfm(tmp_path / "a.pfm")


def test_tartanair(tmp_path):
    tartanair(tmp_path / "P001")
    data = open_data(f"tartanair:{tmp_path}", PAIR, 1000.0)
    assert data.names == ("P001-000003",)
    assert np.allclose(data.load(0).truth, 320 * 0.25 / 8)
    (tmp_path / "P001" / "image_right" / "000003_right.png").unlink()
    with pytest.raises(InputError, match=r"000003_right\.png"):
        open_data(f"tartanair:{tmp_path}", PAIR, 1000.0)


def test_hidden_readings_are_the_truth():
    data = open_data("hidden:synthetic:2", RGBD, 1000.0)
    first, again, second = data.load(0), data.load(0), data.load(1)
    shown, hidden = first.source.frame.depth, first.truth > 0
    assert not shown[hidden].any() and 0.1 < hidden.mean() < 0.35
    assert np.array_equal(first.truth, again.truth) and not np.array_equal(hidden, second.truth > 0)
    with pytest.raises(InputError, match="refines sensor depth"):
        open_data("hidden:synthetic:2", MONO, 1000.0)


def test_the_sample_has_one_truth_in_two_units():
    disparity, depth = (open_data("sample", needs, 1000.0).load(0) for needs in (PAIR, RGBD))
    known = depth.truth > 0
    stereo = disparity.source.frame.stereo
    meters, _ = stereo.meters(disparity.truth)
    assert np.allclose(meters[known], depth.truth[known], rtol=1e-5) and not disparity.truth[~known].any()


@pytest.mark.parametrize(
    ("text", "needs", "said"),
    [
        ("kiti:x", PAIR, "unknown kind 'kiti'"),
        ("folder", PAIR, "needs a path"),
        ("folder:nowhere", PAIR, "is no folder"),
        ("middlebury:nowhere", PAIR, "is no folder"),
        ("sample:x", PAIR, "has no path"),
        *((f"{kind}:.", MONO, "reads one image") for kind in KINDS[3:]),
    ],
)
def test_what_is_not_a_data_set(tmp_path, monkeypatch, text, needs, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        open_data(text, needs, 1000.0)


def test_what_truths_are():
    assert [needs.truth for needs in (PAIR, RGBD, MONO)] == [TruthKind.DISPARITY, TruthKind.DEPTH, TruthKind.DEPTH]
