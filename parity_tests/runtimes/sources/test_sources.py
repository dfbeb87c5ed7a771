"""Frame sources: what they accept, how they fit frames, and what they say about the rest."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.install import install
from cdm_export.runtimes.sources import (
    SourceFrame,
    check_depth,
    fit_frame,
    frames,
    open_source,
    read_depth,
    sample_truth,
)
from cdm_export.runtimes.sources.fit import crop
from parity_tests.conftest import SHARED_FRAMES, needs_shared_frames
from parity_tests.frame_files import COLOR, DEPTH, folder_of, raw_of, refusal, with_depth, write


class TestFolder:
    def test_pairs_in_natural_order(self, tmp_path: Path) -> None:
        source = open_source(str(folder_of(tmp_path, "f10", "f2", "f1")))
        assert source.names == ("f1", "f2", "f10") and len(source) == 3 and source.unpaired == ()
        for _ in range(2):
            loaded = list(frames(source))
            assert [each.name for each in loaded] == ["f1", "f2", "f10"]
        assert np.array_equal(loaded[0].frame.rgb, COLOR)
        assert str(tmp_path) not in source.description and "3 frames" in source.description

    def test_case_formats_and_hidden_files(self, tmp_path: Path) -> None:
        write(tmp_path / "A.Color.JPG", COLOR)
        np.save(tmp_path / "A.Depth.npy", DEPTH / 1000)
        (tmp_path / "._A.color.jpg").write_bytes(b"macOS")
        (tmp_path / "A.depth.txt").write_text("notes")
        assert open_source(str(tmp_path)).names == ("A",)

    @pytest.mark.parametrize("color_folder", ["rgb", "color"])
    def test_subfolders(self, tmp_path: Path, color_folder: str) -> None:
        for stem in ("0001", "0002"):
            write(tmp_path / color_folder / f"{stem}.jpg", COLOR)
            write(tmp_path / "depth" / f"{stem}.png", DEPTH)
        write(tmp_path / color_folder / "0003.jpg", COLOR)
        source = open_source(str(tmp_path))
        assert source.names == ("0001", "0002") and source.unpaired == (f"{color_folder}/0003.jpg",)

    def test_unpaired_are_listed(self, tmp_path: Path) -> None:
        write(folder_of(tmp_path, "a") / "b.color.png", COLOR)
        write(tmp_path / "c.depth.png", DEPTH)
        assert open_source(str(tmp_path)).unpaired == ("b.color.png", "c.depth.png")

    def test_nothing_pairs(self, tmp_path: Path) -> None:
        assert "no file named as a frame" in refusal(lambda: open_source(str(tmp_path)))
        write(tmp_path / "b.color.png", COLOR)
        write(tmp_path / "c.depth.png", DEPTH)
        message = refusal(lambda: open_source(str(tmp_path)))
        assert "b.color.png, c.depth.png" in message and "frames.json" in message

    def test_two_files_for_one_place(self, tmp_path: Path) -> None:
        write(folder_of(tmp_path, "a") / "a.color.jpg", COLOR)
        message = refusal(lambda: open_source(str(tmp_path)))
        assert "a.color.jpg" in message and "a.color.png" in message

    def test_a_broken_second_frame_does_not_take_the_others_along(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, "f1", "f2", "f3")
        (folder / "f2.depth.png").write_bytes((folder / "f2.depth.png").read_bytes()[:60])
        source = open_source(str(folder))
        good, bad = [], []
        for index, name in enumerate(source.names):
            try:
                good.append(source.load(index).name)
            except InputError as error:
                bad.append((name, str(error)))
        assert good == ["f1", "f3"]
        assert bad[0][0] == "f2" and bad[0][1].startswith("f2: f2.depth.png cannot be read") and len(bad) == 1
        walk = frames(source)
        assert next(walk).name == "f1"
        assert "f2" in refusal(lambda: next(walk))

    @needs_shared_frames
    def test_real_frames(self) -> None:
        source = open_source(str(SHARED_FRAMES))
        redwood = source.load(source.names.index("redwood_0"))
        assert redwood.frame.size == Size(640, 480) and redwood.raw_depth is not None
        assert redwood.raw_depth.dtype == np.uint16
        assert check_depth(redwood, 6) == []


class TestFramesJson:
    def listed(self, folder: Path, content: Any) -> Path:
        path = folder_of(folder, "a", "b") / "frames.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def test_scales_names_and_paths(self, tmp_path: Path) -> None:
        entries = [
            {"color": "a.color.png", "depth": "a.depth.png"},
            {"color": str(tmp_path / "b.color.png"), "depth": "b.depth.png", "depth_scale": 4000, "name": "second"},
            {"color": "b.color.png"},
        ]
        path = self.listed(tmp_path, {"frames": entries, "depth_scale": 2000})
        for text in (str(path), str(tmp_path)):
            source = open_source(text, depth_scale=1000)
            assert source.names == ("a", "second", "b")
            assert [each.depth_scale for each in frames(source)] == [2000, 4000, 1]
        del entries[1:]
        source = open_source(str(self.listed(tmp_path, {"frames": entries})), depth_scale=3000)
        assert source.load(0).depth_scale == 3000

    def test_dots_in_stems_are_kept(self, tmp_path: Path) -> None:
        entries = [{"color": "rgb/1305031102.175304.png"}, {"color": "rgb/1305031102.211214.png"}]
        assert len(set(open_source(str(self.listed(tmp_path, {"frames": entries}))).names)) == 2

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("{", "Invalid JSON"),
            ({"frames": []}, "frames: "),
            ({"frames": [{"color": "a.png"}, {"depth": "a.png"}]}, "frames[1].color: Field required"),
            ({"frames": [{"color": "a.png", "scale": 3}]}, "frames[0].scale: "),
            ({"frames": [{"color": "a.png", "depth_scale": 0}]}, "frames[0].depth_scale: "),
            ({"frames": [{"color": "a.png", "name": "../../a"}]}, "frames[0].name: "),
            ({"frames": [{"color": "a.png"}, {"color": "a.jpg"}]}, "2 frames are called 'a'"),
            ('{"frames": [{"color": "a.png"}], "depth_scale": NaN}', "depth_scale: "),
        ],
    )
    def test_refusals_name_the_place(self, tmp_path: Path, content: Any, said: str) -> None:
        message = refusal(lambda: open_source(str(self.listed(tmp_path, content))))
        assert "frames.json" in message and said in message

    def test_missing_image_is_found_when_loaded(self, tmp_path: Path) -> None:
        source = open_source(str(self.listed(tmp_path, {"frames": [{"color": "a.colour.png"}]})))
        assert "Did you mean 'a.color.png'" in refusal(lambda: source.load(0))


class TestOpenSource:
    @pytest.mark.parametrize("text", ["synthetc:4", "sampel", "nowhere/at/all"])
    def test_unknown(self, text: str) -> None:
        message = refusal(lambda: open_source(text))
        assert text in message and "synthetic:N[:SEED]" in message

    def test_help(self, tmp_path: Path) -> None:
        assert "Did you mean 'sample'" in refusal(lambda: open_source("sampel"))
        (tmp_path / "kitchen").mkdir()
        assert "Did you mean 'kitchen'" in refusal(lambda: open_source(str(tmp_path / "kitchn")))
        image = write(tmp_path / "a.png", COLOR)
        assert "--input" in refusal(lambda: open_source(str(image)))

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
    def test_depth_scale(self, scale: float) -> None:
        assert "depth scale" in refusal(lambda: open_source("sample", depth_scale=scale))
        assert "depth scale" in refusal(lambda: read_depth(Path("unread.png"), scale))

    def test_another_size_is_refused_with_both_sizes_or_fitted(self, tmp_path: Path) -> None:
        folder = str(folder_of(tmp_path, "a"))
        assert open_source(folder, camera=Size(16, 12)).load(0).frame.size == Size(16, 12)
        source = open_source(folder, camera=Size(8, 8))
        message = refusal(lambda: source.load(0))
        assert "16x12" in message and "8x8" in message and "--fit" in message
        fitted = open_source(folder, camera=Size(8, 8), fit=True)
        assert fitted.load(0).frame.size == Size(8, 8) and "fitted to 8x8" in fitted.description


SIDES = st.integers(1, 40)


class TestFit:
    @given(SIDES, SIDES, SIDES, SIDES)
    def test_window_is_centerd_and_as_large_as_can_be(self, w: int, h: int, cw: int, ch: int) -> None:
        rows, columns = crop(Size(w, h), Size(cw, ch))
        for window, length in ((rows, h), (columns, w)):
            before, after = window.start, length - window.stop
            assert 0 <= before <= after <= before + 1
        assert rows == slice(0, h) or columns == slice(0, w)
        kept_w, kept_h = columns.stop - columns.start, rows.stop - rows.start
        assert abs(kept_w - max(1, kept_h * cw / ch)) <= max(1, cw / ch) or kept_w == w

    @settings(max_examples=40, deadline=None)
    @given(SIDES, SIDES, st.sampled_from([np.uint16, np.int32, np.float64]))
    def test_no_depth_is_invented(self, width: int, height: int, dtype: Any) -> None:
        fitted = fit_frame(with_depth(DEPTH.astype(dtype), 1000), Size(width, height))
        assert fitted.frame.size == Size(width, height)
        assert fitted.raw_depth is not None and fitted.frame.depth is not None
        assert fitted.raw_depth.dtype == dtype and np.isin(fitted.raw_depth, DEPTH).all()
        assert np.array_equal(fitted.frame.depth, (fitted.raw_depth / 1000).astype(np.float32))

    def test_color_and_depth_stay_together(self) -> None:
        ramp = np.arange(64, dtype=np.uint8) * 3
        rgb = np.repeat(np.broadcast_to(ramp, (48, 64))[..., None], 3, axis=2)
        frame = Frame(np.ascontiguousarray(rgb), rgb[..., 0].astype(np.float32))
        for camera in (Size(32, 16), Size(160, 90), Size(20, 40)):
            fitted = fit_frame(SourceFrame("f", frame, rgb[..., 0], 1), camera).frame
            assert fitted.depth is not None
            assert np.abs(fitted.rgb[..., 0].astype(float) - fitted.depth)[:, 2:-2].max() <= 5

    def test_depth_may_be_absent(self) -> None:
        assert fit_frame(SourceFrame("f", Frame(COLOR)), Size(4, 4)).frame.depth is None


class TestSample:
    def test_frame_and_truth(self) -> None:
        pytest.importorskip("skimage")
        source = open_source("sample")
        loaded, truth = source.load(0), sample_truth()
        assert len(source) == 1 and loaded.frame.size == Size(741, 500) and truth.shape == (500, 741)
        known = truth > 0
        assert truth[known].min() == pytest.approx(2.110, abs=1e-3) and truth.max() == pytest.approx(5.017, abs=1e-3)
        assert loaded.raw_depth is not None and loaded.raw_depth.dtype == np.uint16 and loaded.depth_scale == 1000
        valid = loaded.raw_depth > 0
        assert 0.75 < valid.mean() < 0.9
        assert 0.01 < np.median(np.abs(loaded.raw_depth / 1000 - truth)[valid & known]) < 0.04
        assert np.array_equal(loaded.raw_depth, raw_of(source.load(0)))
        assert check_depth(loaded, 6) == []

    def test_always_fitted(self) -> None:
        pytest.importorskip("skimage")
        loaded = open_source("sample", camera=Size(320, 240)).load(0)
        assert loaded.frame.size == Size(320, 240) and sample_truth(Size(320, 240)).shape == (240, 320)

    def test_without_scikit_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "skimage.data", None)
        assert install("export") in refusal(lambda: open_source("sample").load(0))
