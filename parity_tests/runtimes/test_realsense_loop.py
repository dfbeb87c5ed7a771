"""The live loop on recorded frames: nothing of it needs a camera but the camera."""

import importlib.util
import sys
import time

import numpy as np
import pytest

import cdm_export
from cdm_export.runtimes.contract import Size
from parity_tests.conftest import write_frame
from parity_tests.engine_bundle import SIDE, make_bundle
from parity_tests.places import ROOT

PATH = ROOT / "examples" / "realsense_loop.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("realsense_loop", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["realsense_loop"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recorded(tmp_path, frame):
    folder = tmp_path / "recorded"
    for stem in ("a", "b", "c"):
        write_frame(folder, stem, frame(Size(SIDE, SIDE)))
    return folder


def test_refines_a_recorded_folder(example, recorded, tmp_path, capsys):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    arguments = [bundle.path, "--source", recorded, "--backend", "onnxruntime", "--precision", "fp32", "--fps", "5",
                 "--no-preview", "--save", tmp_path / "out"]  # fmt: skip
    statistics = example.main([str(argument) for argument in arguments])
    assert statistics.refined + statistics.dropped == 3 and statistics.refined >= 1
    assert "onnxruntime fp32 on CPU" in capsys.readouterr().out
    saved = sorted((tmp_path / "out").glob("*.npy"))
    assert len(saved) == statistics.refined and np.load(saved[0]).shape == (SIDE, SIDE)
    assert 0 < statistics.oldest < 5


def test_without_the_cameras_package(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    newest = example.Newest(example.RealSense(Size(640, 480), 30))
    with pytest.raises(cdm_export.CdmExportError, match="pyrealsense2") as caught:
        newest.take()
    assert "--source" in caught.value.next_step


class Paced:
    """Ten frames, one every 10 ms, numbered in their color."""

    def __init__(self, fail=False):
        self.fail = fail

    def frames(self):
        for index in range(10):
            time.sleep(0.01)
            yield cdm_export.Frame(np.full((4, 4, 3), index, np.uint8), captured_at=time.monotonic())
        if self.fail:
            raise RuntimeError("the camera was unplugged")


def test_newest_frame_wins(example):
    seen = []

    def slow(frame):
        seen.append(int(frame.rgb[0, 0, 0]))
        time.sleep(0.045)
        return frame

    newest = example.Newest(Paced())
    while (frame := newest.take()) is not None:
        slow(frame)
    newest.close()
    assert seen == sorted(set(seen)) and seen[-1] == 9, "the last frame is never dropped, and none comes twice"
    assert len(seen) < 10 and newest.dropped == 10 - len(seen)


def test_camera_that_fails_is_told(example):
    newest = example.Newest(Paced(fail=True))
    with pytest.raises(RuntimeError, match="unplugged"):
        while newest.take() is not None:
            pass


def result(**health):
    base = {"non_finite_share": 0.0, "valid_share": 0.9, "sensor_share": 0.5, "age": 0.01}
    depth = np.ones((4, 4), np.float32)
    return cdm_export.DepthResult(
        depth, depth > 0, cdm_export.Semantics.INVERSE_DEPTH, "m", cdm_export.Timing(1, 1, 1),
        cdm_export.Health(**{**base, **health}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("health", "usable"),
    [({}, True), ({"non_finite_share": 0.1}, False), ({"sensor_share": 0.0}, False), ({"valid_share": 0.0}, False),
     ({"sensor_share": None}, True)],
)  # fmt: skip
def test_what_a_robot_may_act_on(example, health, usable):
    assert example.healthy(result(**health)) == usable


def test_stops_when_asked(example):
    newest = example.Newest(Paced())
    statistics = example.loop(lambda frame: result(sensor_share=0.0), newest, lambda *seen: True, most=2)
    newest.close()
    assert statistics.refined == 2 and statistics.unhealthy == 2
    stopped = example.Newest(Paced())
    assert example.loop(lambda frame: result(), stopped, lambda *seen: False).refined == 1
    stopped.close()
