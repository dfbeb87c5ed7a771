"""Pre- and post-processing against the reference's own steps, written here independently in float64 and PyTorch."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import Processing, Semantics, Size
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import at_camera_size, output, postprocess, preprocess
from cdm_export.runtimes.processing.image import BOUND, as_planes
from cdm_export.runtimes.processing.size import lower_bound_size

IPP = cv2.ipp.useIPP()
CUBIC = Processing(resize="cubic", normalization="unit")
LEVELS = Processing(resize="cubic", normalization="levels")

CAMERAS = [
    (Size(640, 480), Size(686, 518)),
    (Size(1280, 720), Size(924, 518)),
    (Size(1920, 1080), Size(924, 518)),
    (Size(848, 480), Size(910, 518)),
    (Size(1280, 800), Size(826, 518)),
    (Size(640, 400), Size(826, 518)),
    (Size(512, 512), Size(518, 518)),
    (Size(480, 640), Size(518, 686)),
]


def vits(camera: Size, input_size: int = 518, **options):
    return get_variant("cdm-vits").contract("cdm-vits", camera, input_size, **options)


@pytest.mark.parametrize(("camera", "network"), CAMERAS)
def test_network_size_of_every_camera(camera, network):
    assert lower_bound_size(camera, 518) == network


@given(
    st.integers(16, 2000), st.integers(16, 2000), st.integers(14, 1000)
)  # fmt: skip
def test_network_size_rule(width, height, input_size):
    network = lower_bound_size(Size(width, height), input_size)
    assert network.width % 14 == 0 and network.height % 14 == 0
    assert min(network) >= input_size
    shorter, scale = min(width, height), max(input_size / width, input_size / height)
    assert min(network) < scale * shorter + 14


@pytest.mark.parametrize(("camera", "network"), CAMERAS)
def test_inputs_equal_the_reference_steps(camera, network, frame):
    """Float64 image / 255, cubic; depth clipped, inverted at sensor size, then nearest: the reference's order."""
    picture = frame(camera)
    inputs = preprocess(picture, vits(camera))
    image = cv2.resize(picture.rgb / 255.0, network, interpolation=cv2.INTER_CUBIC)
    assert inputs["image"].shape == (1, 3, network.height, network.width)
    assert np.abs(inputs["image"][0].transpose(1, 2, 0) - image).max() <= BOUND

    depth = picture.depth.astype(np.float64)
    depth[depth > 6.0] = 0
    inverse = np.zeros_like(depth)
    inverse[depth > 0] = 1 / depth[depth > 0]
    inverse = cv2.resize(inverse, network, interpolation=cv2.INTER_NEAREST)
    got = inputs["inverse_depth"][0, 0]
    assert np.array_equal(got > 0, inverse > 0)
    assert np.abs(got - inverse).max() <= 1e-6 * inverse.max()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 400), st.integers(8, 400), st.integers(14, 420), st.integers(14, 420))
def test_float32_image_stays_within_its_bound(seed, height, width, out_height, out_width):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)  # noise is the worst case
    exact = cv2.resize(rgb / 255.0, (out_width, out_height), interpolation=cv2.INTER_CUBIC)
    got = as_planes(rgb, Size(out_width, out_height), CUBIC)
    assert got.dtype == np.float32 and np.abs(got.transpose(1, 2, 0) - exact).max() <= BOUND
    assert cv2.ipp.useIPP() == IPP


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_8_bit_image_is_the_nearest_level(seed, out_height, out_width):
    rgb = np.random.default_rng(seed).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    size = Size(out_width, out_height)
    levels = as_planes(rgb, size, LEVELS)
    exact = 255 * as_planes(rgb, size, CUBIC).astype(np.float64)
    assert levels.dtype == np.uint8 and np.abs(levels - exact.clip(0, 255)).max() <= 0.5 + 1e-3
    assert np.array_equal(as_planes(rgb, Size.of(rgb), LEVELS).transpose(1, 2, 0), rgb)


@given(st.integers(0, 2**31), st.integers(2, 60), st.integers(2, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_bilinear_is_pytorch_s(seed, out_height, out_width, antialias):
    rgb = np.random.default_rng(seed).integers(0, 256, (29, 37, 3), dtype=np.uint8)
    processing = Processing(resize="bilinear", antialias=antialias, normalization="unit")
    got = as_planes(rgb, Size(out_width, out_height), processing)
    image = torch.from_numpy(rgb.astype(np.float64).transpose(2, 0, 1)[None] / 255)
    expected = F.interpolate(
        image, size=(out_height, out_width), mode="bilinear", align_corners=False, antialias=antialias
    )
    assert np.abs(got - expected[0].numpy()).max() <= 1e-6


@given(st.integers(0, 2**32 - 1), *[st.integers(1, 40)] * 4)
@settings(max_examples=40, deadline=None)
def test_lanczos_is_pillows_to_the_last_level(seed, height, width, out_height, out_width):
    image = pytest.importorskip("PIL.Image")
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    narrow = image.fromarray(rgb).resize((out_width, height), image.Resampling.LANCZOS)
    expected = np.asarray(narrow.resize((out_width, out_height), image.Resampling.LANCZOS))
    planes = as_planes(rgb, Size(out_width, out_height), Processing(resize="lanczos", normalization="unit"))
    assert np.array_equal(np.rint(planes * 255), expected.transpose(2, 0, 1))


def test_buffer_of_the_last_frame_is_written_again(small_bundle, frame):
    import cdm_export

    first, second = frame(Size(160, 120)), Frame(np.zeros((120, 160, 3), np.uint8), np.ones((120, 160), np.float32))
    with cdm_export.open(small_bundle, backend="onnxruntime") as refine:
        before = refine(first)
        kept = before.values.copy()
        refine(second)
        assert np.array_equal(before.values, kept) and np.array_equal(refine(first).values, kept)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 0.0, 6.001, 1e-45])
def test_readings_that_are_none(bad):
    depth = np.full((70, 98), 2.0, np.float32)
    depth[10:20, 10:20] = bad
    inverse = preprocess(Frame(np.zeros((70, 98, 3), np.uint8), depth), vits(Size(98, 70), 70))["inverse_depth"][0, 0]
    assert (inverse[10:20, 10:20] == 0).all()
    assert np.isfinite(inverse).all() and (inverse[30:] == 0.5).all()


@pytest.mark.parametrize(("camera", "network"), CAMERAS)
def test_resize_back_picks_the_pixels_pytorch_picks(camera, network):
    raw = np.random.default_rng(0).random((1, 1, network.height, network.width), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(raw), (camera.height, camera.width), mode="nearest")[0, 0].numpy()
    assert np.array_equal(at_camera_size(raw, vits(camera)), expected)


@settings(max_examples=200)
@given(st.integers(1, 700), st.integers(1, 700))
def test_nearest_index_rule_for_any_size(source, target):
    raw = np.arange(source, dtype=np.float32).reshape(1, source)
    expected = F.interpolate(torch.from_numpy(raw)[None, None], (1, target), mode="nearest")[0, 0].numpy()
    assert np.array_equal(output.nearest(raw, Size(target, 1)), expected)


def test_depth_and_mask():
    contract = vits(Size(6, 1), 14, far=25.0).model_copy(update={"network": Size(6, 1)})
    raw = np.array([[[[0.5, 0.0, np.nan, np.inf, 1 / 25, 0.0401]]]], np.float32)
    depth, valid = postprocess(raw, contract)
    assert valid.tolist() == [[True, False, False, False, False, True]]
    assert depth[0, 0] == 2.0 and depth[0, 5] == pytest.approx(24.94, abs=0.01)
    assert (depth[~valid] == 0).all() and depth.dtype == np.float32


def test_relative_models_have_no_meters(small_bundle, frame):
    import dataclasses

    import cdm_export

    with cdm_export.open(small_bundle, backend="onnxruntime") as refine:
        result = refine(frame(Size(160, 120)))
    relative = dataclasses.replace(result, semantics=Semantics.RELATIVE_INVERSE_DEPTH, unit="")
    with pytest.raises(InputError, match="no metric scale"):
        _ = relative.depth_m


@pytest.mark.parametrize(
    ("rgb", "depth", "message"),
    [
        (np.zeros((4, 4), np.uint8), None, "rgb must be uint8"),
        (np.zeros((4, 4, 3), np.float32), None, "rgb must be uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), "floating point meters"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.float32), "differ in size"),
    ],
)
def test_frames_that_are_none(rgb, depth, message):
    with pytest.raises(InputError, match=message):
        Frame(rgb, depth)


def test_frame_of_another_size_and_frame_without_depth():
    contract = vits(Size(98, 70), 70)
    with pytest.raises(InputError, match="the frame is 99x70, this bundle was made for 98x70"):
        preprocess(Frame(np.zeros((70, 99, 3), np.uint8), np.ones((70, 99), np.float32)), contract)
    with pytest.raises(InputError, match="has no depth image"):
        preprocess(Frame(np.zeros((70, 98, 3), np.uint8)), contract)
