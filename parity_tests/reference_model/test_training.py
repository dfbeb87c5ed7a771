"""Training in seconds: a tiny network, a few frames."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from cdm_export.reference_model.cdm.config import CdmConfig  # noqa: E402
from cdm_export.reference_model.cdm.network import Cdm  # noqa: E402
from cdm_export.reference_model.checkpoint import load_network  # noqa: E402
from cdm_export.reference_model.config import DptConfig, VitConfig  # noqa: E402
from cdm_export.reference_model.registry import get_variant  # noqa: E402
from cdm_export.reference_model.training import evaluate  # noqa: E402
from cdm_export.reference_model.training.initialize import initialize  # noqa: E402
from cdm_export.reference_model.training.loss import depth_loss, revival  # noqa: E402
from cdm_export.reference_model.training.samples import training_sample  # noqa: E402
from cdm_export.reference_model.training.shards import FRAMES_PER_SHARD, Shards, render_shards, shard_folder  # noqa: E402
from cdm_export.reference_model.training.trainer import Phase, Plan, Training  # noqa: E402
from cdm_export.reference_model.weights import bundled_checkpoint  # noqa: E402
from cdm_export.runtimes.contract import Size  # noqa: E402
from cdm_export.runtimes.errors import InputError  # noqa: E402
from cdm_export.runtimes.frame import Frame  # noqa: E402
from cdm_export.runtimes.sources.synthetic import SyntheticSource, View  # noqa: E402

TINY = CdmConfig(VitConfig(96, 4, 2, (0, 1, 2, 3)), DptConfig(16, (24, 24, 24, 24)))
SIZE = Size(70, 56)
PLAN = Plan(steps=60, batch=2, rate=3e-4, phases=(Phase(0.5, Size(56, 42)), Phase(1.0, SIZE)))


@pytest.fixture(scope="module")
def frames() -> list[View]:
    source = SyntheticSource(4, 3, Size(128, 96))
    return [source.view(index) for index in range(4)]


def tiny(seed: int = 0) -> Cdm:
    network = Cdm(TINY)
    initialize(network, seed)
    return network


def training(frames: list[View], plan: Plan = PLAN) -> Training:
    torch.set_num_threads(1)
    return Training(plan, frames, tiny())


class TestTraining:
    def test_loss_falls_and_the_size_grows(self, frames: list[View]) -> None:
        run = training(frames)
        fixed = [run.batch(1000 + index) for index in range(8)]

        def loss() -> float:
            exportable = run.variant.exportable(run.network, "bgr")
            with torch.no_grad():
                return float(
                    np.mean([depth_loss(exportable(image, sensor), target, sensor) for image, sensor, target in fixed])
                )

        before = loss()
        reports = list(run.run())
        assert [report.step for report in reports] == list(range(1, 61))
        assert {report.size for report in reports[:30]} == {Size(56, 42)} and reports[-1].size == SIZE
        assert loss() < 0.85 * before

    def test_a_run_cut_in_two_is_the_run(self, frames: list[View], tmp_path: Path) -> None:
        whole = training(frames)
        list(whole.run(until=6))
        first = training(frames)
        list(first.run(until=3))
        first.save(tmp_path / "t.pt")
        assert [path.name for path in tmp_path.iterdir()] == ["t.pt"], "no temporary file is left"
        second = Training(PLAN, frames, tiny(seed=9))
        second.resume(tmp_path / "t.pt")
        assert second.step == 3 and second.seconds == first.seconds
        list(second.run(until=6))
        for name, value in whole.network.state_dict().items():
            assert torch.equal(value, second.network.state_dict()[name]), name
            assert torch.equal(whole.average[name], second.average[name]), name

    def test_average_follows_slowly(self, frames: list[View]) -> None:
        run = training(frames)
        before = run.average["depth_head_rgbd.scratch.output_conv2.2.bias"].clone()
        list(run.run(until=5))
        now = run.network.state_dict()["depth_head_rgbd.scratch.output_conv2.2.bias"]
        average = run.average["depth_head_rgbd.scratch.output_conv2.2.bias"]
        assert not torch.equal(average, before) and not torch.equal(average, now)
        assert (average - before).abs() < (now - before).abs()

    def test_rate(self) -> None:
        plan = Plan(steps=1000)
        rates = [plan.rate_at(step) for step in range(1000)]
        assert max(rates) == pytest.approx(plan.rate, rel=0.03) and np.argmax(rates) == 99
        assert rates[0] < 0.02 * plan.rate and rates[-1] < 0.03 * plan.rate

    def test_starts_as_a_copy_of_the_sensor_with_holes_filled(self) -> None:
        network = get_variant("cdm-vitt").build()
        initialize(network, 0)  # type: ignore[arg-type]
        rows, columns = torch.linspace(0.4, 0.8, 140)[:, None], torch.linspace(0, 0.3, 182)
        sensor = (rows + columns)[None, None]
        with torch.no_grad():
            out = network(torch.zeros(1, 3, 140, 182), sensor)
            sensor_with_hole = sensor.clone()
            sensor_with_hole[..., 50:80, 60:110] = 0
            filled = network(torch.zeros(1, 3, 140, 182), sensor_with_hole)
        assert np.corrcoef(out.flatten(), sensor.flatten())[0, 1] > 0.95
        assert ((out / sensor - 1).abs() < 0.3).float().mean() > 0.9
        assert ((filled / sensor - 1).abs() < 0.5)[..., 50:80, 60:110].float().mean() > 0.6


class TestLoss:
    def test_exact_is_zero_and_the_log_error_is_relative(self) -> None:
        target = torch.rand(1, 1, 8, 8) + 0.2
        sensor = target.clone()
        assert depth_loss(target, target, sensor) == 0
        assert depth_loss(1.1 * target, target, sensor) == pytest.approx(np.log(1.1), rel=1e-4), "a scale has no edges"
        step = target.clone()
        step[..., :4] *= 1.1
        assert (half := depth_loss(step, target, sensor)) > np.log(1.1) / 2
        sensor[..., :4] = 0
        relative = 1 - 1 / 1.1
        assert depth_loss(step, target, sensor) - half == pytest.approx(0.8 * relative - 0.5 * np.log(1.1), rel=1e-3), (
            "4/5 instead of 1/2"
        )

    def test_a_hole_of_two_likely_depths_is_the_near_one(self) -> None:
        """As by the measure, |depth - truth| / truth; in logarithms all between the two would be as good."""
        target = torch.cat((torch.full((1, 1, 8, 4), 1.0), torch.full((1, 1, 8, 4), 0.5)), dim=-1)  # 1 m and 2 m
        hole = torch.zeros_like(target)

        def loss(depth: float) -> float:
            return float(depth_loss(torch.full_like(target, 1 / depth), target, hole))

        assert loss(1.0) < loss(1.2) < loss(1.6) < loss(2.0)
        assert loss(1.6) - loss(1.2) == pytest.approx((0.6 + 0.2) / 2 - (0.2 + 0.4) / 2, rel=1e-3)

    def test_far_beyond_the_truth_the_slope_is_bounded(self) -> None:
        guess = torch.full((1, 1, 8, 8), 1 / 24, requires_grad=True)
        target = torch.full((1, 1, 8, 8), 5.0)
        depth_loss(guess, target, torch.zeros_like(target)).backward()
        assert guess.grad is not None
        assert float((guess.grad * guess.detach()).sum()) == pytest.approx(-np.e, rel=1e-3)

    def test_dead_outputs_are_pushed_up(self) -> None:
        value = torch.tensor([-1.0, 0.5], requires_grad=True)
        revival(value).backward()
        assert value.grad is not None and value.grad[0] < 0 and value.grad[1] == 0


class TestSamples:
    def test_shapes_ranges_and_determinism(self, frames: list[View]) -> None:
        for index, view in enumerate(frames):
            one, same, other = (training_sample(view, SIZE, np.random.default_rng(seed)) for seed in (index, index, 99))
            assert one.image.shape == (3, 56, 70) and one.sensor.shape == one.target.shape == (1, 56, 70)
            assert all(plane.dtype == np.float32 and np.isfinite(plane).all() for plane in one)
            assert one.target.min() > 1 / 7 and one.target.max() < 1 / 0.19
            assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
            assert not np.array_equal(one.sensor, other.sensor)

    def test_sensor_agrees_with_the_target_where_it_reads(self, frames: list[View]) -> None:
        errors, holes = [], []
        for seed in range(24):
            sample = training_sample(frames[seed % 4], SIZE, np.random.default_rng(seed))
            read = sample.sensor > 0
            holes.append(1 - read.mean())
            errors.append(np.median(np.abs(sample.sensor / sample.target - 1)[read]))
        assert 0.15 < np.mean(holes) < 0.6 and np.ptp(holes) > 0.2
        assert 0.002 < np.mean(errors) < 0.03


class TestShards:
    def test_round_trip_and_resuming(self, tmp_path: Path) -> None:
        size, told = Size(24, 18), []
        render_shards(tmp_path, FRAMES_PER_SHARD + 1, 5, size, 2, told.append)
        assert sum(told) == 2 * FRAMES_PER_SHARD == len(Shards(tmp_path, 5, size))
        folder = shard_folder(tmp_path, 5, size)
        assert sorted(path.name for path in folder.iterdir()) == ["shard-00000", "shard-00001"]
        times = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
        render_shards(tmp_path, 2 * FRAMES_PER_SHARD, 5, size, 1)
        assert times == [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
        stored = Shards(tmp_path, 5, size)[FRAMES_PER_SHARD]
        clean = SyntheticSource(FRAMES_PER_SHARD + 1, 5, size).view(FRAMES_PER_SHARD)
        assert np.array_equal(stored.rgb, clean.rgb) and stored.focal == clean.focal
        assert np.abs(stored.depth - clean.depth).max() < 6e-5

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no shards"):
            Shards(tmp_path, 5, Size(24, 18))


def framed(depth: NDArray[np.float32]) -> Frame:
    return Frame(np.zeros((*depth.shape, 3), np.uint8), depth)


class TestEvaluation:
    def test_score(self) -> None:
        errors = evaluate.Errors()
        truth = np.array([[1.0, 2.0, 4.0]], np.float32)
        errors.add(np.array([[1.02, 0.0, 5.0]], np.float32), truth, truth > 0)
        score = errors.score()
        assert score.abs_rel == pytest.approx((0.02 + 1 + 0.25) / 3, rel=1e-5)
        assert score.rmse_m == pytest.approx(np.sqrt((0.02**2 + 4 + 1) / 3), rel=1e-5)
        assert score.within_5_percent == pytest.approx(1 / 3)
        assert np.isnan(evaluate.Errors().score().abs_rel)

    def test_fills(self) -> None:
        depth = np.full((20, 30), 1.5, np.float32)
        depth[:, 15:] = 2.5
        holed = depth.copy()
        holed[5:9, 3:12] = 0
        holed[10, 20] = 7.0  # Beyond the range: no reading.
        assert np.array_equal(evaluate.nearest_fill(framed(holed)), depth)
        assert np.allclose(evaluate.telea_fill(framed(holed))[:, :8], 1.5, atol=2e-3)
        assert (evaluate.raw_sensor(framed(holed)) == 0).sum() == 37
        assert not evaluate.nearest_fill(framed(np.zeros_like(depth))).any()

    def test_regions_and_hidden_rectangles(self) -> None:
        methods = evaluate.METHODS
        scores = evaluate.score_rendered(methods, evaluate.held_out(1))
        assert scores["raw sensor"]["holes"].abs_rel == 1
        assert scores["raw sensor"]["readings"] == scores["nearest fill"]["readings"]
        assert scores["nearest fill"]["overall"].abs_rel < scores["raw sensor"]["overall"].abs_rel
        depth = np.full((60, 80), 2.0, np.float32)
        depth[:10] = 0
        left, hidden = evaluate.hide_rectangles(depth, 0.1, np.random.default_rng(0))
        assert np.array_equal(hidden, (depth > 0) & (left == 0)) and 0.1 <= hidden.sum() / (depth > 0).sum() < 0.13
        step = np.where(np.arange(20) < 10, 1, 1.2).astype(np.float32) * np.ones((20, 1), np.float32)
        assert np.array_equal(np.flatnonzero(evaluate.near_edges(step)[9]), [8, 9, 10, 11])

    def test_a_network_is_a_method(self) -> None:
        network = get_variant("cdm-vitt").build()
        initialize(network, 0)  # type: ignore[arg-type]
        depth = evaluate.refiner(network, get_variant("cdm-vitt"))(framed(np.full((60, 80), 2.0, np.float32)))
        assert depth.shape == (60, 80) and np.median(depth) == pytest.approx(2.0, rel=0.3)


class TestBundledWeights:
    def test_they_fit_and_refine_a_frame(self) -> None:
        path = bundled_checkpoint("cdm-vitt")
        assert path is not None and path.with_suffix(".md").is_file()
        variant = get_variant("cdm-vitt")
        methods = {**evaluate.METHODS, "refined": evaluate.refiner(load_network(path, variant)[0], variant)}
        scores = evaluate.score_rendered(methods, evaluate.held_out(2))
        assert scores["refined"]["overall"].abs_rel < 0.5 * scores["raw sensor"]["overall"].abs_rel

    def test_none(self) -> None:
        assert bundled_checkpoint("cdm-vitl") is None
