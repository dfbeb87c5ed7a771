"""Depth in the wrong unit: a warning where most readings are out of range, an error where all are."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cdm_export.cli import run_command
from cdm_export.predict import drawing, pictures
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.sources import check_depth, dropped_note, require_readings
from parity_tests.conftest import CAMERA
from parity_tests.frame_files import refusal, with_depth

_Y, _X = np.mgrid[: CAMERA.height, : CAMERA.width]
METERS = 2.6 - 1.4 * _Y / CAMERA.height + 0.2 * np.sin(_X / 20)
METERS[(_X // 7 + _Y // 5) % 9 == 0] = 0
"""1 to 2.8 m, with holes."""
MILLIMETERS = np.rint(METERS * 1000).astype(np.uint16)


def units(per_meter: float) -> NDArray[np.uint16]:
    return np.rint(METERS * per_meter).astype(np.uint16)


class TestHints:
    @pytest.mark.parametrize("right", [1000, 10000, 5000, 4000, 256, 100])
    @pytest.mark.parametrize("given", [1000, 10000, 100, 1e6, 1.0])
    def test_the_right_scale_is_among_those_named(self, right: int, given: float) -> None:
        raw = units(right)
        doubted = check_depth(with_depth(raw, given), 6)
        share = float(np.mean((raw[raw > 0] / given >= 0.07) & (raw[raw > 0] / given <= 6)))
        assert bool(doubted) == (share < 0.5)
        if doubted:
            medians = {each: np.median(raw[raw > 0]) / each for each in (1000, 10000, 5000, 4000, 256, 100)}
            best = min(medians, key=lambda each: abs(np.log(medians[each] / 2)))
            assert f"--depth-scale {best:g} would give a median of {medians[best]:.3g} m" in doubted[0]

    def test_quarter_millimeters_of_an_l515(self) -> None:
        (warning,) = check_depth(with_depth(units(4000), 1000), 6)
        assert "only " in warning and "; --depth-scale 4000 would give" in warning

    @pytest.mark.parametrize("right", [1000, 5000])
    def test_inverse(self, right: int) -> None:
        message = refusal(lambda: require_readings(with_depth(units(right), 1 / right), 6))
        assert f"--depth-scale {right} would give" in message and "meters per unit" in message

    @pytest.mark.parametrize("near", [1.0, 0.2])
    def test_rotated_bits_of_sun_rgbd(self, near: float) -> None:
        """Also where the scene is so near that eight times the depth is still within 6 m."""
        d = np.rint(METERS * near * 1000).astype(np.uint16)
        (warning,) = check_depth(with_depth((d << 3) | (d >> 13), 1000), 100)
        assert "SUN RGB-D" in warning and "(d >> 3) | (d << 13)" in warning and "--depth-scale 8000" in warning
        assert check_depth(with_depth((d << 3) | (d >> 13), 8000), 6) == []

    @pytest.mark.parametrize(("factor", "unit"), [(1000, "millimeters"), (100, "centimeters"), (0.001, "kilometers")])
    def test_floating_point_in_another_unit(self, factor: float, unit: str) -> None:
        message = refusal(lambda: require_readings(with_depth((METERS * factor).astype(np.float32), 1), 6))
        assert f"these look like {unit}" in message and "read as meters" in message and "256" not in message

    def test_good_depth_and_a_covered_lens(self) -> None:
        assert require_readings(with_depth(MILLIMETERS, 1000), 6) == []
        assert "covered" in refusal(lambda: require_readings(with_depth(MILLIMETERS * 0, 1000), 6))

    def test_dropped_readings_are_noted_from_one_percent_on(self) -> None:
        raw = np.full((10, 100), 2000, np.uint16)
        raw[0, :10] = 7000
        assert dropped_note(with_depth(raw, 1000), 6) == ""
        raw[0, :20] = 7000
        note = dropped_note(with_depth(raw, 1000), 6)
        assert "2.0% of the readings lie beyond --max-depth 6" in note and "25" in note
        assert dropped_note(with_depth(raw, 1000), 25) == ""


class TestHealth:
    @pytest.fixture
    def pipeline(self, contract: ModelContract) -> DepthPipeline:
        network = contract.network
        output = np.full((1, 1, network.height, network.width), 0.5, np.float32)
        runtime: Any = lambda inputs: {contract.output.name: output}  # noqa: E731
        return DepthPipeline(runtime, contract)

    def frame(self, depth: NDArray[Any]) -> Frame:
        return Frame(np.zeros((*METERS.shape, 3), np.uint8), depth.astype(np.float32))

    def test_says_the_share_outside_and_logs_once(
        self, pipeline: DepthPipeline, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "cdm_export"):
            for _ in range(3):
                health = pipeline(self.frame(METERS * 1000)).health
        assert health.outside_share == 1 and health.sensor_share == 0
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "is the depth in meters?" in caplog.text

    def test_good_depth_is_not_doubted(self, pipeline: DepthPipeline, caplog: pytest.LogCaptureFixture) -> None:
        assert pipeline(self.frame(METERS)).health.outside_share == 0
        half = np.where(_X < 40, 9.0, METERS)
        share = pipeline(self.frame(half)).health.outside_share
        assert share == pytest.approx(np.mean(half[half > 0] > 6)) and not caplog.records

    @pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
    def test_covered_lens_is_accepted(
        self, pipeline: DepthPipeline, caplog: pytest.LogCaptureFixture, value: float
    ) -> None:
        health = pipeline(self.frame(np.full(METERS.shape, value))).health
        assert health.sensor_share == 0 and health.outside_share is None and not caplog.records


@pytest.fixture
def files(tmp_path: Path) -> Callable[[NDArray[Any]], tuple[Path, Path]]:
    def write(raw: NDArray[Any]) -> tuple[Path, Path]:
        color, depth = tmp_path / "c.png", tmp_path / ("d.npy" if raw.dtype.kind == "f" else "d.png")
        cv2.imwrite(str(color), np.full((*raw.shape, 3), 90, np.uint8))
        np.save(depth, raw) if raw.dtype.kind == "f" else cv2.imwrite(str(depth), raw)
        return color, depth

    return write


class TestRun:
    def run(self, *arguments: object) -> int:
        return run_command(["run", *map(str, arguments)])

    def test_mostly_out_of_range_is_a_warning_everywhere(
        self, small_bundle: Path, files: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        color, depth = files(units(4000))
        drawn: list[str] = []
        monkeypatch.setattr(drawing, "_text", lambda picture, text, *rest: drawn.append(f"{text} {rest[3:]}"))
        out = tmp_path / "out"
        assert self.run(small_bundle, "--input", color, "--depth", depth, "-o", out, "-q") == 0
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("warning: c: only ")
        assert "--depth-scale 4000" in printed.err and printed.err.count("\n") == 1, "said once"
        red = [text for text in drawn if "(190, 20, 20)" in text]
        assert any("of the readings" in text for text in red)
        assert self.run(small_bundle, "--input", color, "--depth", depth, "-o", out, "--json") == 0
        (only,) = json.loads(capsys.readouterr().out)["frames"]
        assert any("--depth-scale 4000" in warning for warning in only["warnings"])
        assert only["health"]["outside_share"] > 0.5

    @pytest.mark.parametrize(
        ("raw", "options", "hint"),
        [
            (MILLIMETERS, ("--depth-scale", 0.001), "--depth-scale 1000"),
            ((METERS * 1000).astype(np.float32), (), "millimeters"),
            ((MILLIMETERS << 3) | (MILLIMETERS >> 13), (), "SUN RGB-D"),
            (MILLIMETERS * 0, (), "no pixel"),
        ],
    )
    def test_no_usable_reading_is_refused_before_the_model_is_loaded(
        self, small_bundle: Path, files: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch,
        raw: NDArray[Any], options: tuple[object, ...], hint: str,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("cdm_export.runtimes.opening.load_runtime", loaded_too_early)
        color, depth = files(raw)
        assert self.run(small_bundle, "--input", color, "--depth", depth, "-o", tmp_path / "o", "-q", *options) == 2
        assert hint in capsys.readouterr().err and not (tmp_path / "o").exists()

    def test_in_a_folder_it_is_skipped(self, small_bundle: Path, tmp_path: Path, capsys: Any) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        for name, raw in (("a", MILLIMETERS), ("b", units(10000)), ("c", MILLIMETERS)):
            cv2.imwrite(str(folder / f"{name}.color.png"), np.full((*raw.shape, 3), 90, np.uint8))
            cv2.imwrite(str(folder / f"{name}.depth.png"), raw)
        assert self.run(small_bundle, "--input", folder, "-o", tmp_path / "o", "--json") == 2
        document = json.loads(capsys.readouterr().out)
        assert list(document["skipped"]) == ["b"] and [each["frame"] for each in document["frames"]] == ["a", "c"]
        assert not (tmp_path / "o" / "b.npy").exists()

    def test_many_frames_do_not_flood(self, small_bundle: Path, tmp_path: Path, capsys: Any) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        for index in range(6):
            cv2.imwrite(str(folder / f"{index}.color.png"), np.full((*METERS.shape, 3), 90, np.uint8))
            cv2.imwrite(str(folder / f"{index}.depth.png"), units(4000))
        assert self.run(small_bundle, "--input", folder, "-o", tmp_path / "o", "-q") == 0
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 4 and lines[-1].startswith("warning: 6 of 6 frames")

    def test_dropped_readings_are_a_note(self, small_bundle: Path, files: Any, tmp_path: Path, capsys: Any) -> None:
        color, depth = files(np.where(_X < 20, 8000, MILLIMETERS).astype(np.uint16))
        assert self.run(small_bundle, "--input", color, "--depth", depth, "-o", tmp_path / "x.npy") == 0
        printed = capsys.readouterr()
        assert "note: c: 1" in printed.err and "beyond --max-depth 6" in printed.err and "warning" not in printed.err
        assert "with sensor depth" in printed.out
        assert self.run(small_bundle, "--input", color, "--depth", depth, "-o", tmp_path / "x.npy", "-q") == 0
        assert capsys.readouterr().err == ""
        assert self.run(small_bundle, "--input", color, "--depth", depth, "-o", tmp_path / "x.npy", "--max-depth", 25,
                        "--json") == 0  # fmt: skip
        (only,) = json.loads(capsys.readouterr().out)["frames"]
        assert only["notes"] == [] and only["warnings"] == []

    @pytest.mark.parametrize(
        ("what", "words"),
        [
            ("no color", "no such file"),
            ("no depth", "no such file"),
            ("scale 0", "depth scale"),
            ("scale -1000", "depth scale"),
            ("scale nan", "depth scale"),
            ("far nan", "above 0"),
            ("max-depth inf", "at most 100000"),
            ("broken color", "cannot be read"),
            ("broken first frame, strict", "cannot be read"),
            ("empty input", "--input"),
            ("video", "videos are not read"),
        ],
    )
    def test_what_can_be_checked_is_checked_before_the_model_is_loaded(
        self, small_bundle: Path, files: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch,
        what: str, words: str,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("cdm_export.runtimes.opening.load_runtime", loaded_too_early)
        color, depth = files(MILLIMETERS)
        given: list[object] = ["--input", color, "--depth", depth]
        option, _, value = what.partition(" ")
        if what == "no color":
            given[1] = tmp_path / "nothing.png"
        elif what == "no depth":
            given[3] = tmp_path / "nothing.png"
        elif option == "scale":
            given += ["--depth-scale", value]
        elif option in ("far", "max-depth"):
            given += [f"--{option}", value]
        elif what == "broken color":
            color.write_bytes(b"broken")
        elif what == "empty input":
            given = ["--input", ""]
        elif what == "video":
            given[1] = tmp_path / "v.mp4"
            (tmp_path / "v.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(90))
        else:
            folder = tmp_path / "in"
            folder.mkdir()
            color.rename(folder / "a.color.png")
            (folder / "a.depth.png").write_bytes(b"broken")
            given = ["--input", folder, "--strict"]
        assert self.run(small_bundle, *given, "-o", tmp_path / "x.npy", "-q") == 2
        assert words in capsys.readouterr().err

    def test_names_that_are_not_utf_8_or_control_a_terminal(
        self, small_bundle: Path, files: Any, tmp_path: Path, capsys: Any
    ) -> None:
        """OpenCV's putText crashed on the first (segmentation fault)."""
        color, depth = files(MILLIMETERS)
        odd = Path(str(tmp_path / "frame") + b"\xff\xfe\x1b[31m\x07.png".decode("utf-8", "surrogateescape"))
        color.rename(odd)
        assert self.run(small_bundle, "--input", odd, "--depth", depth, "-o", tmp_path / "o") == 0
        assert len(list((tmp_path / "o").iterdir())) == 3
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err and "\x07" not in printed.out + printed.err

    def test_all_files_of_a_frame_or_none(
        self, small_bundle: Path, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*arguments: object, **options: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("cdm_export.predict.frames.encode_png", broken)
        color, depth = files(MILLIMETERS)
        assert self.run(small_bundle, "--input", color, "--depth", depth, "-o", tmp_path / "o", "-q") == 2
        assert not list((tmp_path / "o").glob("*"))


def loaded_too_early(*arguments: object, **options: object) -> SimpleNamespace:
    raise AssertionError("the model was loaded before the input was checked")


@pytest.mark.parametrize("text", ["a\udcff\udcfe", "\x1b[31m", "\x00", "\u202e", "Küche 厨房 😀", "x" * 5000])
def test_any_text_can_be_drawn(text: str) -> None:
    picture = np.zeros((120, 160, 3), np.uint8)
    drawn = pictures.prediction_picture(picture, np.ones((120, 160), np.float32), "m", text, f"{text}\n{text} {text}")
    assert drawn.shape[0] > 120 and drawing.drawable(text).isprintable()
