"""The right image of a stereo pair on its way through frames, sources and processing, and what disparity means."""

from dataclasses import replace

import numpy as np
import pytest

from cdm_export.parity.compare import compare
from cdm_export.parity.golden import load_reference, raw_frame, save_frame
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import ModelContract, Semantics, Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import DepthResult, Frame, Health, Timing
from cdm_export.runtimes.metric_scale import KnownRange, SensorAlignment
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.processing import output, preprocess
from cdm_export.runtimes.sources import MirroredSource, SourceFrame, fit_frame
from parity_tests.conftest import CAMERA

DISPARITY_PX = 6
MODEL = "depth-anything-v2-vits"


class OneFrame:
    """A source of one frame."""

    names, description, files, unpaired, left_out = ("a",), "one", (), (), ()

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> SourceFrame:
        return SourceFrame("a", self._frame, self._frame.depth, 1.0)


@pytest.fixture
def pair() -> Frame:
    """A wall of noise in front of a rectified pair: right[y, x] = left[y, x + 6], disparity 6 px everywhere."""
    wall = np.random.default_rng(0).integers(0, 256, (40, 60 + DISPARITY_PX, 3), np.uint8)
    return Frame(wall[:, :60], right=wall[:, DISPARITY_PX:], captured_at=1.0)


@pytest.fixture
def mono() -> ModelContract:
    return get_variant(MODEL).contract(MODEL, CAMERA, 70)


@pytest.fixture
def stereo(mono: ModelContract) -> ModelContract:
    """The contract of a model that reads a pair."""
    right = mono.inputs[0].model_copy(update={"name": "image_right", "source": "right"})
    return mono.model_copy(update={"inputs": (*mono.inputs, right), "semantics": Semantics.DISPARITY})


def empty(**images: np.ndarray) -> Frame:
    return Frame(np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8), **images)


def disparity_of(frame: Frame) -> int:
    """Whole pixels, 0 to 15, at which the right image is the left one's."""
    assert frame.right is not None
    left, right, width = frame.rgb.astype(int), frame.right.astype(int), frame.size.width
    return int(np.argmin([np.abs(left[:, d:] - right[:, : width - d]).mean() for d in range(16)]))


# --- frames and sources -----------------------------------------------------------------------------------------------


def test_a_right_image_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="right is 5x4, expected 6x4") as caught:
        Frame(np.zeros((4, 6, 3), np.uint8), right=np.zeros((4, 5, 3), np.uint8))
    assert "Rectify or resize" in caught.value.next_step


@pytest.mark.parametrize("camera", [Size(40, 20), Size(20, 40), Size(90, 60), Size(60, 40)])
def test_both_images_are_fitted_alike(pair: Frame, camera: Size) -> None:
    fitted = fit_frame(SourceFrame("a", pair), camera).frame
    assert pair.right is not None and fitted.right is not None and fitted.captured_at == 1.0
    assert np.array_equal(fitted.right, fit_frame(SourceFrame("b", Frame(pair.right)), camera).frame.rgb)


def test_fitting_scales_disparity_with_the_width(pair: Frame) -> None:
    assert disparity_of(pair) == DISPARITY_PX
    assert disparity_of(fit_frame(SourceFrame("a", pair), Size(30, 20)).frame) == DISPARITY_PX // 2
    assert disparity_of(fit_frame(SourceFrame("a", pair), Size(120, 80)).frame) == DISPARITY_PX * 2


def test_mirror_images_keep_disparity_positive(pair: Frame) -> None:
    source = MirroredSource(OneFrame(pair), 4)
    made = {name: source.load(index).frame for index, name in enumerate(source.names)}
    assert list(made) == ["a", "a-mirrored", "a-upside-down", "a-turned"]
    assert [disparity_of(frame) for frame in made.values()] == [DISPARITY_PX] * 4
    assert np.array_equal(made["a-mirrored"].rgb, pair.right[:, ::-1])
    assert np.array_equal(made["a-mirrored"].right, pair.rgb[:, ::-1])
    assert np.array_equal(made["a-upside-down"].rgb, pair.rgb[::-1])
    assert np.array_equal(made["a-turned"].right, pair.rgb[::-1, ::-1])


def test_depth_does_not_follow_images_that_change_sides(pair: Frame) -> None:
    depth = np.arange(2400, dtype=np.float32).reshape(40, 60)
    source = MirroredSource(OneFrame(replace(pair, depth=depth)), 4)
    for index in (1, 3):
        with pytest.raises(InputError, match="depth image belongs to the other") as caught:
            source.load(index)
        assert source.names[index] in caught.value.message
    upside_down = source.load(2)
    assert np.array_equal(upside_down.frame.depth, depth[::-1]) and np.array_equal(upside_down.raw_depth, depth[::-1])
    assert np.array_equal(upside_down.frame.right, pair.right[::-1])


def test_reference_frames_keep_the_right_image(pair: Frame, tmp_path) -> None:
    for name, frame in (("pair", pair), ("mono", Frame(pair.rgb))):
        save_frame(tmp_path / f"{name}.npz", SourceFrame(name, frame), {})
    restored = raw_frame(load_reference(tmp_path / "pair.npz"))
    assert np.array_equal(restored.rgb, pair.rgb) and np.array_equal(restored.right, pair.right)
    assert raw_frame(load_reference(tmp_path / "mono.npz")).right is None


# --- processing -------------------------------------------------------------------------------------------------------


def test_both_images_go_in_alike(stereo: ModelContract) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, CAMERA.height, CAMERA.width, 3), np.uint8)
    inputs = preprocess(Frame(left, right=right), stereo)
    assert list(inputs) == ["image", "image_right"]
    swapped = preprocess(Frame(right, right=left), stereo)
    assert np.array_equal(inputs["image"], swapped["image_right"])
    assert not np.array_equal(inputs["image"], inputs["image_right"])


def test_a_missing_eye_is_named(stereo: ModelContract) -> None:
    with pytest.raises(InputError, match="reads a stereo pair: the frame has no right image") as caught:
        preprocess(empty(), stereo)
    assert "--right FILE" in caught.value.next_step


def test_warm_up_brings_what_the_contract_reads(stereo: ModelContract, mono: ModelContract) -> None:
    class Remembers:
        reuses_outputs = False

        def __init__(self, contract: ModelContract) -> None:
            self.contract = contract

        def __call__(self, inputs):
            self.names = list(inputs)
            return {self.contract.output.name: np.ones(self.contract.output.shape, np.float32)}

    for contract, names in ((stereo, ["image", "image_right"]), (mono, ["image"])):
        runtime = Remembers(contract)
        DepthPipeline(runtime).warm_up()
        assert runtime.names == names


def test_a_right_image_nobody_reads_is_refused(mono: ModelContract, contract: ModelContract) -> None:
    depth, right = np.ones((CAMERA.height, CAMERA.width), np.float32), empty().rgb
    for frame, model in ((empty(right=right), mono), (empty(depth=depth, right=right), contract)):
        with pytest.raises(InputError, match="reads one image") as caught:
            preprocess(frame, model)
        assert "Leave the right image out" in caught.value.next_step
    assert list(preprocess(empty(depth=depth), mono)) == ["image"], "depth may give a scale afterwards"


# --- disparity --------------------------------------------------------------------------------------------------------


def test_disparity_is_valid_above_0(stereo: ModelContract) -> None:
    raw = np.array([[12.5, 1e-3, 0.0, -0.0, -5.0, np.nan, np.inf, -np.inf, 1e6]], np.float32)
    values, valid = output.interpret(raw, stereo)
    assert valid.tolist() == [[True, True, False, False, False, False, False, False, True]]
    assert np.array_equal(values, np.where(valid, raw, 0))
    relative = stereo.model_copy(update={"semantics": Semantics.RELATIVE_INVERSE_DEPTH})
    assert output.interpret(raw, relative)[1].tolist() == [[True] * 5 + [False] * 3 + [True]]


def test_disparity_made_of_none_is_a_difference(stereo: ModelContract) -> None:
    """An exact 0 of the reference excuses nothing: no other figure would see what the candidate made of it."""
    contract = stereo.model_copy(update={"output_resize": "nearest"})
    width, height = contract.network
    reference = np.linspace(1, 60, width, dtype=np.float32)[None].repeat(height, 0)[None, None]
    reference[..., : height // 4, :] = 0
    candidate = np.where(reference == 0, np.float32(50), reference)
    assert compare("a", reference, reference, contract, "fp32").verdict == "passed"
    assert "valid mask" in compare("a", reference, candidate, contract, "fp32").reason
    assert "valid mask" in compare("a", candidate, reference, contract, "fp32").reason
    hardly = np.where(reference == 0, np.float32(1e-7), reference)
    assert compare("a", reference, hardly, contract, "fp32").verdict == "passed", "0 and next to nothing are the same"
    assert compare("a", hardly, reference, contract, "fp32").verdict == "passed"


def test_disparity_wants_a_calibration_for_meters() -> None:
    values = np.full((60, 80), 12.5, np.float32)
    result = DepthResult(
        values, np.ones(values.shape, bool), Semantics.DISPARITY, "px", Timing(0, 0, 0), Health(0.0, 1.0, None, None)
    )
    frame = Frame(np.zeros((60, 80, 3), np.uint8), values)
    for to_meters in (KnownRange(0.5, 10), SensorAlignment()):
        with pytest.raises(InputError, match="focal length in pixels, baseline in meters"):
            to_meters(result, frame)
        with pytest.raises(InputError, match="in meters already"):
            to_meters(replace(result, unit="m"), frame)
        with pytest.raises(InputError, match="in meters already"):
            to_meters(replace(result, semantics=Semantics.METRIC_DEPTH, unit="m"), frame)
    with pytest.raises(InputError, match="calibration") as caught:
        _ = result.depth_m
    assert "baseline" in caught.value.next_step and "KnownRange" not in str(caught.value)
    assert replace(result, unit="m").depth_m is values
