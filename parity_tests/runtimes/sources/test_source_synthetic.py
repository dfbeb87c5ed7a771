"""Rendered scenes are true, and a sensor sees of them what a sensor would."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.sources import check_depth, open_source
from cdm_export.runtimes.sources.raycast import Camera, Solid, render
from cdm_export.runtimes.sources.scenes import rotation
from cdm_export.runtimes.sources.sensor_noise import D435, L515, hide_regions, simulate_sensor, smooth_noise
from cdm_export.runtimes.sources.synthetic import SyntheticSource
from parity_tests.frame_files import raw_of, refusal

WHITE, BLACK = ((1.0, 1.0, 1.0),) * 2, ((0.0, 0.0, 0.0),) * 2
PINNED = [1.786733, 0.714378, 1.579788, 0.442260]
"""Mean and deviation of the true depth, mean sensor depth (m), mean color (0..1) of synthetic:1:0 at 160x120."""


class TestRaycast:
    """Depth against geometry worked out by hand, for a camera whose middle ray is the optical axis."""

    CAMERA = Camera(Size(65, 49), 40.0, np.eye(3))

    def depth_of(self, solid: Solid) -> NDArray[np.float32]:
        return render([solid], self.CAMERA, (0, -2, 0))[1]

    def test_depth_is_along_the_axis_not_along_the_ray(self) -> None:
        wall = self.depth_of(Solid((0, 0, 3.5), (9, 9, 0.5), WHITE))
        assert np.allclose(wall, 3, rtol=1e-6)
        room = self.depth_of(Solid((0, 0, 0), (9, 9, 4), WHITE))
        assert np.allclose(room, 4, rtol=1e-6), "from within, the far side is seen"

    def test_a_turned_wall_has_linear_inverse_depth(self) -> None:
        inverse = 1 / self.depth_of(Solid((0, 0, 3), (9, 9, 0.5), WHITE, axes=rotation(0.4, 0.2, 0.1)))
        for axis in (0, 1):
            assert np.abs(np.diff(inverse, n=2, axis=axis)).max() < 1e-6
            assert np.abs(np.diff(inverse, axis=axis)).min() > 1e-4

    def test_ellipsoid(self) -> None:
        ball = self.depth_of(Solid((0, 0, 2), (0.5, 0.5, 0.25), WHITE, shape="ellipsoid"))
        assert ball[24, 32] == pytest.approx(1.75, rel=1e-6)
        assert ball[0, 0] == 0 and np.array_equal(ball, ball[::-1, ::-1])
        assert (ball > 0).sum() == pytest.approx(np.pi * (40 * 0.5 / 2) ** 2, rel=0.1)

    def test_cylinder(self) -> None:
        can = self.depth_of(Solid((0, 0, 2), (0.5, 0.25, 0.5), WHITE, shape="cylinder"))
        assert can[24, 32] == pytest.approx(1.5, rel=1e-6)
        assert np.allclose(can[24], can[22], rtol=1e-6) and (can[:, 32] > 0).sum() == pytest.approx(
            40 * 0.5 / 1.5, abs=1
        )
        lying = self.depth_of(
            Solid((0, 0, 2), (0.5, 0.25, 0.5), WHITE, axes=rotation(0, np.pi / 2, 0), shape="cylinder")
        )
        assert lying[24, 32] == pytest.approx(1.75, rel=1e-5), "its flat end, seen from the front"

    def test_only_pixels_in_its_window_are_computed(self) -> None:
        turned = Solid((0.2, -0.1, 2), (0.3, 0.2, 0.1), WHITE, axes=rotation(0.4, 0.3, 0.7))
        rows, columns = self.CAMERA.window(turned)
        depth = self.depth_of(turned)
        inside = np.zeros(depth.shape, bool)
        inside[rows, columns] = True
        assert (depth[~inside] == 0).all() and 0 < (depth > 0).sum() < inside.sum() < depth.size / 2

    def test_shadow_and_highlight(self) -> None:
        floor = Solid((0, 1, 3), (9, 0.1, 9), WHITE, "plain")
        plate = Solid((0, 0, 3), (0.3, 0.01, 0.3), WHITE)
        lamp = (0.0, -1.0, 3.0)
        (open_floor, _), (shaded, _) = render([floor], self.CAMERA, lamp), render([floor, plate], self.CAMERA, lamp)
        below = 24 + round(40 * 0.9 / 3)
        assert shaded[below, 32].max() < 0.6 * open_floor[below, 32].min()
        assert np.array_equal(shaded[-1, 0], open_floor[-1, 0])
        glossy = render([replace(floor, gloss=1.0)], self.CAMERA, lamp)[0]
        assert glossy.astype(int).sum() > open_floor.astype(int).sum()

    def test_the_nearest_wins_and_the_lit_side_is_brighter(self) -> None:
        ball, wall = Solid((0, 0, 2), (0.5, 0.5, 0.5), WHITE, shape="ellipsoid"), Solid((0, 0, 4), (9, 9, 0.1), BLACK)
        for solids in ([ball, wall], [wall, ball]):
            rgb, depth = render(solids, self.CAMERA, (0, -3, 1))
            assert depth[24, 32] == pytest.approx(1.5, rel=1e-6) and depth[0, 0] == pytest.approx(3.9, rel=1e-6)
            assert rgb[18, 32].min() > rgb[30, 32].max() > 0 and rgb[0, 0].max() == 0


class TestSynthetic:
    @pytest.mark.parametrize("text", ["synthetic", "synthetic:", "synthetic:0", "synthetic:-1", "synthetic:2:x"])
    def test_refusals(self, text: str) -> None:
        assert "synthetic:N" in refusal(lambda: open_source(text))

    def test_size_and_count(self) -> None:
        assert open_source("synthetic:1").load(0).frame.size == Size(640, 480)
        assert len(open_source("synthetic:99999")) == 99999
        assert open_source("synthetic:2:5", camera=Size(32, 24)).description == "synthetic:2:5 at 32x24"

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 10**6))
    def test_any_size(self, width: int, height: int, seed: int) -> None:
        source = SyntheticSource(1, seed, Size(width, height))
        loaded, truth = source.load(0), source.truth(0)
        assert loaded.frame.size == Size(width, height) and truth.shape == (height, width)
        assert loaded.raw_depth is not None and loaded.raw_depth.dtype == np.uint16
        assert np.isfinite(truth).all() and truth.min() >= 0.2 and truth.max() <= 6

    def test_a_frame_depends_on_seed_and_index_only(self) -> None:
        size = Size(48, 36)
        once, more = SyntheticSource(3, 7, size), SyntheticSource(9, 7, size)
        last, first = once.load(2), once.load(0)
        assert np.array_equal(last.frame.rgb, more.load(2).frame.rgb)
        assert np.array_equal(raw_of(last), raw_of(more.load(2)))
        assert not np.array_equal(raw_of(last), raw_of(first))
        assert not np.array_equal(raw_of(first), raw_of(SyntheticSource(3, 8, size).load(0)))

    def test_pinned(self) -> None:
        """Figures of one frame, with room for the last bit of another machine's libm; changing them is a decision."""
        loaded, truth = SyntheticSource(1, 0, Size(160, 120)).load(0), SyntheticSource(1, 0, Size(160, 120)).truth(0)
        assert loaded.raw_depth is not None
        figures = [truth.mean(), truth.std(), loaded.raw_depth.mean() / 1000, loaded.frame.rgb.mean() / 255]
        assert figures == pytest.approx(PINNED, rel=2e-4)

    def test_looks_like_a_depth_camera(self) -> None:
        for index in range(4):
            source = SyntheticSource(4, 1, Size(320, 240))
            loaded, truth = source.load(index), source.truth(index)
            assert loaded.frame.depth is not None
            valid = loaded.frame.depth > 0
            assert 0.02 < 1 - valid.mean() < 0.25
            error = np.abs(loaded.frame.depth - truth)[valid]
            assert 0.003 < np.median(error) < 0.05
            assert loaded.frame.rgb.std() > 20, "a scene has contrast"
            assert check_depth(loaded, 6) == []

    def test_rotation_is_one(self) -> None:
        turn = rotation(0.3, -0.7, 1.1)
        assert np.allclose(turn @ turn.T, np.eye(3)) and np.isclose(np.linalg.det(turn), 1)
        assert rotation(0, 0.5, 0)[1, 2] > 0, "positive pitch looks down, y points down"


class TestSensorNoise:
    def test_error_grows_with_the_square_of_the_distance(self) -> None:
        spread = {}
        for meters in (1.0, 2.0, 4.0):
            raw = simulate_sensor(np.full((200, 200), meters, np.float32), 400, np.random.default_rng(0))
            spread[meters] = float(np.std(raw[raw > 0] / 1000))
        assert spread[2] / spread[1] == pytest.approx(4, rel=0.15)
        assert spread[4] / spread[2] == pytest.approx(4, rel=0.15)
        assert spread[2] == pytest.approx(2**2 * 0.08 / (430 * 0.05), rel=0.15)

    def test_shadow_is_left_of_what_stands_out(self) -> None:
        scene = np.full((100, 200), 3, np.float32)
        scene[:, 100:130] = 1
        raw = simulate_sensor(scene, 400, np.random.default_rng(0))
        shadow = 400 * 0.05 * (1 / 1 - 1 / 3)
        holes = (raw == 0).mean(axis=0)
        assert shadow == pytest.approx(13.3, abs=0.1)
        assert holes[90:97].min() > 0.9 and holes[134:160].max() < 0.5

    def test_unknown_and_too_near_have_no_reading(self) -> None:
        for meters in (0.0, 0.1):
            assert not simulate_sensor(np.full((20, 300), meters, np.float32), 100, np.random.default_rng(0)).any()

    def test_lidar_errs_in_range(self) -> None:
        spread = {}
        for meters in (1.0, 4.0):
            depth = np.full((200, 200), meters, np.float32)
            raw = simulate_sensor(depth, 400, np.random.default_rng(0), camera=L515)
            spread[meters] = float(np.std(raw[raw > 0] / 1000))
        assert spread[1] == pytest.approx(0.0026, rel=0.15) and spread[4] == pytest.approx(0.0074, rel=0.15)

    def test_lidar_has_no_shadow_and_reads_something_between_at_edges(self) -> None:
        scene = np.full((100, 200), 3, np.float32)
        scene[:, 100:130] = 1
        raw = simulate_sensor(scene, 400, np.random.default_rng(0), camera=L515)
        assert (raw[:, 90:97] == 0).mean() < 0.3
        between = (raw > 1200) & (raw < 2800)
        assert between[:, 96:104].any() and not between[:, :90].any()

    def test_dark_shining_and_grazing_surfaces_are_lost(self) -> None:
        depth, gray = np.full((200, 200), 1.5, np.float32), np.full((200, 200, 3), 128, np.uint8)

        def lost(rgb: NDArray[np.uint8], depth: NDArray[np.float32] = depth) -> list[float]:
            rng = np.random.default_rng
            return [
                float((simulate_sensor(depth, 400, rng(0), rgb, c)[20:-20, 40:-20] == 0).mean()) for c in (D435, L515)
            ]

        usual = lost(gray)
        assert max(usual) < 0.05
        assert lost(np.zeros_like(gray))[1] > 0.4 > lost(np.zeros_like(gray))[0] > usual[0]
        assert min(lost(np.full_like(gray, 255))) > 0.5
        floor = np.broadcast_to(400 * 0.1 / np.linspace(5, 40, 200, dtype=np.float32)[:, None], (200, 200))
        assert lost(gray, np.ascontiguousarray(floor))[1] > 3 * usual[1]

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
    def test_hidden_regions(self, share: float) -> None:
        raw = np.full((120, 160), 1000, np.uint16)
        hidden = hide_regions(raw, np.random.default_rng(0), share)
        assert raw.all() and np.isin(hidden, (0, 1000)).all()
        assert share <= (hidden == 0).mean() <= share + 0.36, "the last region may be the largest"
        if not share:
            assert hidden.all()

    def test_noise_is_standard(self) -> None:
        noise = smooth_noise((400, 400), 4, np.random.default_rng(0))
        assert noise.dtype == np.float32
        assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.05)
