"""Calibration frames that are few or unlike those INT8 is judged on are told before the long work (issue 19, 11)."""

import numpy as np
import pytest

from cdm_export.parity.golden import ReferenceFrame, save_frame
from cdm_export.progress import Silent
from cdm_export.quantize.exporter import check_source
from cdm_export.quantize.frame_figures import figures_of, unlike, warn_of_unlike_frames
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources import SourceFrame, open_source

MAX_DEPTH = 6.0


def seen(meters=2.0, missing=0.1, brightness=120):
    """A wall at ``meters`` that leans a little, with a band of missing readings."""
    depth = np.linspace(0.9 * meters, 1.1 * meters, 100, dtype=np.float32)[:, None] * np.ones((1, 80), np.float32)
    depth[:, : round(80 * missing)] = 0
    return Frame(rgb=np.full((100, 80, 3), brightness, np.uint8), depth=depth)


def figures(*frames, max_depth=MAX_DEPTH):
    return [figures_of(frame, max_depth) for frame in frames]


def test_figures_of_a_frame():
    found = figures_of(seen(), MAX_DEPTH)
    assert found.brightness == pytest.approx(120 / 255) and found.missing == pytest.approx(0.1)
    assert (found.near, found.median, found.far) == pytest.approx((1.82, 2, 2.18), abs=0.01)
    beyond = figures_of(seen(meters=8), MAX_DEPTH)
    assert beyond.missing == 1 and beyond.median is None, "the model does not see what lies beyond"
    assert figures_of(seen(), None).missing is None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"meters": 4}, ["median", "far end"]),
        ({"meters": 0.9}, ["median", "near end"]),
        ({"missing": 0.6}, ["share of missing"]),
        ({"brightness": 40}, ["brightness"]),
        ({"brightness": 250}, ["brightness"]),
        ({"meters": 2.5, "missing": 0.3, "brightness": 90}, []),
    ],
)
def test_what_no_calibration_frame_shows_is_told_with_both_figures(other, told):
    found = unlike(figures(seen(), seen()), figures(seen(**other)))
    assert len(found) == len(told) and all(name in text for name, text in zip(told, found, strict=True)), found
    assert all("in them" in text and "in those it is verified on" in text for text in found)


def test_one_calibration_frame_of_the_kind_is_enough():
    varied = figures(seen(), seen(meters=4, brightness=50), seen(missing=0.7))
    assert unlike(varied, figures(seen(meters=4, brightness=40, missing=0.6))) == []
    assert unlike(varied, figures(seen(), seen(meters=0.5))) != [], "one verification frame that is unlike is told"


def test_where_no_depth_is_read_the_images_alone_are_compared():
    ours, theirs = (figures(frame, max_depth=None) for frame in (seen(), seen(meters=5, missing=0.9)))
    assert unlike(ours, theirs) == []


@pytest.fixture
def prepared(tmp_path):
    def write(name, frame):
        path = tmp_path / f"{name}.npz"
        save_frame(
            path, SourceFrame(name, frame, raw_depth=(frame.depth * 1000).astype(np.uint16), depth_scale=1000), {}
        )
        return ReferenceFrame(name, path)

    return write


def test_one_warning_names_the_figures(prepared, contract):
    ours, theirs = prepared("ours", seen()), prepared("theirs", seen(meters=4, brightness=20))
    warn_of_unlike_frames([ours], [theirs], contract, progress := Silent())
    (warning,) = progress.warnings
    assert "2.00 m in them, 4.00 m in those it is verified on" in warning and "brightness is 0.47" in warning
    warn_of_unlike_frames([ours], [prepared("same", seen())], contract, progress := Silent())
    warn_of_unlike_frames([], [theirs], contract, progress)
    assert progress.warnings == []


def test_rendered_frames_are_not_unlike_by_name():
    def all_of(name):
        source = open_source(name, depth_scale=1000.0, camera=Size(160, 120), fit=True)
        return figures(*(source.load(index).frame for index in range(len(source))))

    assert unlike(all_of("synthetic:8"), all_of("sample")) == []


def test_few_frames_are_a_warning():
    for count, told in ((2, "too few to hold one out"), (5, "1 of them only judge")):
        name = f"synthetic:{count}"
        source = open_source(name, depth_scale=1000.0, camera=Size(160, 120), fit=True)
        check_source(source, name, progress := Silent())
        (warning,) = progress.warnings
        assert f"from {count} calibration frame(s)" in warning and told in warning
    source = open_source("synthetic:8", depth_scale=1000.0, camera=Size(160, 120), fit=True)
    check_source(source, "synthetic:8", progress := Silent())
    assert progress.warnings == []
