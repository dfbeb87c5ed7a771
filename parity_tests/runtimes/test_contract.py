"""A contract is whole, is all that preprocessing needs, and what schema 1 said of inputs is read as what it was."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import at_camera_size, preprocess
from cdm_export.runtimes.processing.padding import window
from cdm_export.runtimes.processing.size import network_size
from parity_tests.places import DATA

PIXEL = Processing(resize="bilinear", normalization="unit", padding="edge")


def of_inputs(*inputs: TensorSpec, camera: Size, sizing: Sizing, input_size: int = 32, **changed) -> ModelContract:
    network, content = network_size(camera, input_size, sizing)
    shape = (1, 1, network.height, network.width)
    fields = {
        "model": "toy", "semantics": Semantics.DISPARITY, "inputs": inputs, "camera": camera, "network": network,
        "outputs": (TensorSpec(name="out", shape=shape, unit="px"),), "content": content, "sizing": sizing,
        "input_size": input_size, "channel_order": "rgb", "output_resize": "bilinear",
    }  # fmt: skip
    return ModelContract(**(fields | changed))


def spec_of(name: str, source: str, processing: Processing, network: Size) -> TensorSpec:
    planes = (1,) if source == "depth" else (3,)
    plane = (network.height, network.width)
    shape = (1, *planes, *plane) if processing.layout == "NCHW" else (1, *plane, *planes)
    dtype = "uint8" if processing.normalization == "levels" else "float32"
    return TensorSpec(name=name, shape=shape, dtype=dtype, unit="", source=source, processing=processing)


images = st.builds(
    Processing,
    resize=st.sampled_from(["cubic", "bilinear"]),
    normalization=st.sampled_from(["unit", "levels"]),
    padding=st.sampled_from(["zero", "edge"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
)
depths = st.builds(
    Processing,
    resize=st.just("nearest"),
    normalization=st.sampled_from(["inverse_depth", "meters"]),
    padding=st.sampled_from(["zero", "edge"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
)
sizings = st.builds(
    Sizing, rule=st.sampled_from(["lower_bound", "camera"]), multiple=st.integers(1, 32),
    padding=st.sampled_from(["end", "center"]),
)  # fmt: skip


@given(st.integers(8, 70), st.integers(8, 70), sizings, images, images, depths, st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_preprocess_makes_exactly_the_inputs(width, height, sizing, left, right, of_depth, seed):
    camera = Size(width, height)
    network, content = network_size(camera, 16, sizing)
    made_of = {"rgb": left, "right": right, "depth": of_depth}
    inputs = [spec_of(source[:2], source, processing, network) for source, processing in made_of.items()]
    contract = of_inputs(*inputs, camera=camera, sizing=sizing, input_size=16)
    rng = np.random.default_rng(seed)
    pair = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    frame = Frame(pair[0], depth=rng.uniform(0.2, 9, (height, width)).astype(np.float32), right=pair[1])
    made = preprocess(frame, contract)
    assert [(name, array.shape, array.dtype.name) for name, array in made.items()] == [
        (spec.name, spec.shape, spec.dtype) for spec in contract.inputs
    ]
    again = preprocess(frame, contract, {name: np.full_like(array, 7) for name, array in made.items()})
    for spec in contract.inputs:
        assert np.array_equal(made[spec.name], again[spec.name]), "written over an old buffer, it is the same"
        planes = made[spec.name][0] if spec.processing.layout == "NCHW" else made[spec.name][0].transpose(2, 0, 1)
        rows, columns = window(contract)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (content.height, content.width)
        mode, values = ("edge", {}) if spec.processing.padding == "edge" else ("constant", {})
        around = ((0, 0), (rows.start, network.height - rows.stop), (columns.start, network.width - columns.stop))
        assert np.array_equal(planes, np.pad(planes[:, rows, columns], around, mode=mode, **values))


@pytest.mark.parametrize("padding", ["end", "center"])
def test_what_was_padded_comes_off_again(padding):
    """A network that hands its input on: disparity of the network's pixels comes back in the camera's, in its place."""
    camera, sizing = Size(50, 37), Sizing(rule="camera", multiple=32, padding=padding)
    network, content = network_size(camera, 32, sizing)
    assert (network, content) == (Size(64, 64), camera)
    contract = of_inputs(spec_of("a", "rgb", PIXEL, network), camera=camera, sizing=sizing)
    rgb = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    handed_on = preprocess(Frame(rgb), contract)["a"][:, :1]
    assert np.array_equal(at_camera_size(handed_on, contract), rgb[:, :, 0] * np.float32(1 / 255))


def test_disparity_is_in_pixels_of_the_camera():
    camera, sizing = Size(160, 120), Sizing(rule="lower_bound", multiple=8)
    network, _ = network_size(camera, 48, sizing)
    contract = of_inputs(spec_of("a", "rgb", PIXEL, network), camera=camera, sizing=sizing, input_size=48)
    assert network == Size(64, 48)
    raw = np.full((1, 1, 48, 64), 4.0, np.float32)
    assert np.allclose(at_camera_size(raw, contract), 10.0), "160 / 64 of 4 px"
    relative = contract.model_copy(update={"semantics": Semantics.RELATIVE_INVERSE_DEPTH})
    assert np.allclose(at_camera_size(raw, relative), 4.0)


GOOD = {
    "camera": Size(64, 48), "sizing": Sizing(rule="camera", multiple=16),
}  # fmt: skip
PADDED = Sizing(rule="camera", multiple=16, padding="end")
LEFT = spec_of("a", "rgb", PIXEL, Size(64, 48))


@pytest.mark.parametrize(
    ("inputs", "changed", "words"),
    [
        ((LEFT.model_copy(update={"source": None}),), {}, "does not say what part of a frame"),
        ((LEFT.model_copy(update={"processing": None}),), {}, "does not say what part of a frame"),
        ((LEFT, LEFT), {}, "one name"),
        ((LEFT.model_copy(update={"name": "right"}),), {}, "can be called right"),
        ((LEFT.model_copy(update={"source": "depth"}),), {}, "made of depth"),
        ((LEFT.model_copy(update={"dtype": "uint8"}),), {}, "is uint8 and unit"),
        ((LEFT.model_copy(update={"shape": (1, 3, 48, 48)}),), {}, "has shape"),
        ((LEFT.model_copy(update={"shape": (1, 4, 48, 64)}),), {}, "has shape"),
        ((LEFT.model_copy(update={"shape": (3, 48, 64)}),), {}, "has shape"),
        ((LEFT,), {"content": Size(60, 48)}, "without padding"),
        ((LEFT,), {"content": Size(66, 48), "sizing": PADDED}, "larger than"),
        ((LEFT,), {"sizing": Sizing(rule="camera", multiple=32)}, "no multiple of 32"),
        ((LEFT,), {"outputs": (LEFT.model_copy(update={"name": "out"}),)}, "no part of a frame"),
        ((), {}, "at least 1"),
    ],
)  # fmt: skip
def test_a_contract_that_contradicts_itself(inputs, changed, words):
    with pytest.raises(ValidationError, match=words):
        whole = of_inputs(LEFT, **GOOD).model_dump()
        ModelContract.model_validate({**whole, "inputs": inputs, **changed})


@pytest.mark.parametrize(
    "processing",
    [
        {"resize": "nearest", "normalization": "unit"},
        {"resize": "cubic", "normalization": "meters"},
        {"resize": "cubic", "antialias": True, "normalization": "unit"},
        {"resize": "lanczos", "antialias": True, "normalization": "unit"},
        {"resize": "area", "normalization": "unit"},
        {"resize": "cubic", "normalization": "imagenet"},
    ],
)
def test_a_processing_that_nobody_makes(processing):
    with pytest.raises(ValidationError):
        of_inputs(spec_of("a", "rgb", Processing(**processing), Size(64, 48)), **GOOD)


def test_a_camera_that_does_not_fit_without_padding():
    with pytest.raises(InputError, match="no multiples of 16") as caught:
        network_size(Size(63, 48), 32, Sizing(rule="camera", multiple=16))
    assert "--camera 64x48 --fit" in caught.value.next_step
    with pytest.raises(InputError, match="no side above 16384"):
        network_size(Size(16000, 20), 518, Sizing(rule="lower_bound", multiple=14))


class TestSchema1:
    """What 0.1 and 0.2.0 wrote."""

    def test_it_is_read_as_what_the_model_has_now(self):
        data = json.loads((DATA / "bundle-0.1" / "manifest.json").read_text())["contract"]
        assert {"image_resize", "depth_input"} <= set(data)
        read = ModelContract.model_validate(data)
        assert ModelContract.model_validate_json(json.dumps(data)) == read
        given = [data[key] for key in ("input_size", "channel_order", "max_depth", "far")]
        now = get_variant("cdm-vits").contract(data["model"], Size(*data["camera"]), *given)
        assert read == now and read.reads("depth") and not read.reads("right")
        assert ModelContract.model_validate_json(now.model_dump_json()) == now

    def test_an_8_bit_image_and_a_model_without_depth(self):
        data = json.loads((DATA / "bundle-0.1" / "manifest.json").read_text())["contract"]
        image = {**data["inputs"][0], "dtype": "uint8"}
        changed = {"inputs": [image], "image_resize": "cubic_8bit", "depth_input": None}
        read = ModelContract.model_validate({**data, **changed})
        (spec,) = read.inputs
        assert spec.processing is not None and spec.processing.normalization == "levels" and not read.reads("depth")

    @pytest.mark.parametrize(
        "changed", [{"image_resize": "eval"}, {"depth_input": "eval"}, {"depth_input": None}, {"inputs": ["image"]}]
    )
    def test_what_it_never_said_is_refused(self, changed):
        data = json.loads((DATA / "bundle-0.1" / "manifest.json").read_text())["contract"]
        with pytest.raises(ValidationError):
            ModelContract.model_validate({**data, **changed})


def test_nhwc_and_meters_are_what_they_say():
    camera, sizing = Size(32, 16), Sizing(rule="camera", multiple=16)
    levels = Processing(resize="bilinear", normalization="levels", layout="NHWC")
    meters = Processing(resize="nearest", normalization="meters")
    contract = of_inputs(
        spec_of("a", "rgb", levels, camera), spec_of("b", "depth", meters, camera), camera=camera, sizing=sizing
    )
    rgb = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    depth = np.tile(np.array([0.5, 7.0, np.nan, -1], np.float32), (16, 8))
    made = preprocess(Frame(rgb, depth=depth), contract)
    assert np.array_equal(made["a"][0], rgb)
    assert np.array_equal(made["b"][0, 0], np.where(depth == 0.5, depth, 0))
    assert cv2.countNonZero(made["b"][0, 0]) == 16 * 8
