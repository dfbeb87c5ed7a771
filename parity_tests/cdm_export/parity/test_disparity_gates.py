"""Disparity is judged in pixels of the network, and what a careless comparison would let through fails."""

import numpy as np
import pytest

from cdm_export.parity.compare import compare, summarize
from cdm_export.parity.gates import GATES, gate_of
from cdm_export.runtimes.contract import ErrorClass, ModelContract, Processing, Semantics, Size, Sizing, TensorSpec

NETWORK = Size(64, 48)


def contract(camera: Size = NETWORK) -> ModelContract:
    plane = (NETWORK.height, NETWORK.width)
    image = Processing(resize="bilinear", normalization="unit")
    return ModelContract(
        model="toy", semantics=Semantics.DISPARITY, camera=camera, network=NETWORK, content=NETWORK, input_size=48,
        inputs=(TensorSpec(name="left", shape=(1, 3, *plane), unit="", source="rgb", processing=image),),
        outputs=(TensorSpec(name="disparity", shape=(1, 1, *plane), unit="px"),),
        sizing=Sizing(rule="lower_bound", multiple=16), channel_order="rgb", output_resize="bilinear",
    )  # fmt: skip


@pytest.fixture
def reference():
    """2 to 20 px, a ramp with a step."""
    columns = np.linspace(2, 12, NETWORK.width, dtype=np.float32)
    disparity = np.tile(columns, (NETWORK.height, 1))
    disparity[20:40, 10:30] += 8
    return disparity[None, None]


def judged(reference, candidate, precision="fp32", camera=NETWORK):
    return compare("a", reference, np.asarray(candidate, np.float32), contract(camera), precision)


@pytest.mark.parametrize("camera", [NETWORK, Size(160, 120)])
def test_errors_are_pixels_of_the_network(reference, camera):
    found = judged(reference, reference + 0.02, "fp16", camera)
    assert found.passed and found.error_class is ErrorClass.PIXELS
    assert found.depth.mean == pytest.approx(0.02, rel=1e-3) and found.depth.mean_mm is None
    verdict = summarize("x", [found], "PyTorch")
    assert "0.02 px" in str(verdict) and "mm" not in str(verdict) and verdict.mean_text == "0.02 px"


@pytest.mark.parametrize(
    ("precision", "offset", "passes"),
    [
        ("fp32", 0.9e-3, True), ("fp32", 1.1e-3, False), ("fp16", 0.045, True), ("fp16", 0.055, False),
        ("bf16", 0.09, True), ("bf16", 0.11, False), ("int8", 0.19, True), ("int8", 0.21, False),
    ],
)  # fmt: skip
def test_the_limit_of_each_class(reference, precision, offset, passes):
    assert judged(reference, reference + offset, precision).passed is passes


def test_a_small_error_of_an_output_that_hardly_varies_is_none():
    """FP32: 1e-3 px may be all that a flat output has."""
    flat = np.full((1, 1, NETWORK.height, NETWORK.width), 5.0, np.float32)
    flat[..., ::2] += 2e-4
    found = judged(flat, flat + 1e-4)
    assert found.verdict == "failed" and "of the reference's range" in found.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d * 0, "mask"),
        (lambda d: -d, "mask"),
        (lambda d: d * np.nan, "NaN"),
        (lambda d: np.full_like(d, 7.0), "disparity error"),
        (lambda d: d + 2, "disparity error"),
        (lambda d: np.roll(d, 1, axis=-1), "disparity error"),
        (lambda d: d * 1.01, "disparity error"),
    ],
    ids=["zero", "negative", "nan", "constant", "off by 2 px", "shifted by one column", "one percent"],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_planted_faults_fail(reference, change, words, precision):
    found = judged(reference, change(reference), precision)
    assert found.verdict == "failed" and words in found.reason


def test_a_constant_reference_proves_nothing():
    same = np.full((1, 1, NETWORK.height, NETWORK.width), 5.0, np.float32)
    found = judged(same, same)
    assert found.verdict == "inconclusive" and "constant" in found.reason
    nothing = np.zeros_like(same)
    assert judged(nothing, nothing).verdict == "inconclusive"


def test_every_precision_has_a_gate_in_pixels():
    for precision in GATES:
        gate = gate_of(precision, ErrorClass.PIXELS)
        assert gate.mean <= 0.2 and gate.p99 <= 2 and gate is not GATES[precision]
        assert gate_of(precision, ErrorClass.RANGE) is gate_of(precision, ErrorClass.RELATIVE) is GATES[precision]


@pytest.mark.parametrize(("moves", "offset", "passes"), [(0.01, 0.06, False), (0.03, 0.08, True), (0.03, 0.1, False)])
def test_seeded_recurrent_weights_are_judged_by_what_they_amplify(reference, moves, offset, passes):
    """3 times what rounding the images makes, where that is more than the gate."""
    given = (np.asarray(reference + offset, np.float32), contract(), "fp16", 0.0)
    assert compare("a", reference, *given, np.asarray(reference + moves, np.float32)).passed is passes
    assert not compare("a", reference, *given).passed


def test_only_rounding_to_16_bits_is_amplified(tmp_path, reference):
    """What a reference frame holds beside the output counts for half and BF16, each by its own, and nothing else."""
    from cdm_export.parity.check_backend import _compare_frame
    from cdm_export.parity.golden import ReferenceFrame, save_frame, save_output
    from cdm_export.runtimes.frame import Frame
    from cdm_export.runtimes.processing import preprocess
    from cdm_export.runtimes.sources import SourceFrame

    rgb = np.random.default_rng(0).integers(0, 256, (NETWORK.height, NETWORK.width, 3), np.uint8)
    frame, path = Frame(rgb), tmp_path / "0.npz"
    save_frame(path, SourceFrame("a", frame), preprocess(frame, contract()))
    rounded = {"fp16": np.asarray(reference + 0.03, np.float32), "bf16": np.asarray(reference + 0.2, np.float32)}
    save_output(path, path, contract(), np.asarray(reference, np.float32), rounded)

    def passed(precision, offset):
        candidate = np.asarray(reference + offset, np.float32)
        return _compare_frame(ReferenceFrame("a", path), candidate, contract(), precision).passed

    assert passed("fp16", 0.08) and not passed("fp16", 0.5) and passed("bf16", 0.5) and not passed("bf16", 0.7)
    assert not passed("fp32", 0.002) and not passed("int8", 0.3)
