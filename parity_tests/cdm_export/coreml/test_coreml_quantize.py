"""Layers of a Core ML package that read 8-bit activations: which, and what they compute."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("coremltools")

from cdm_export.coreml.convert import convert, save, trace
from cdm_export.coreml.exporter import CoremlRequest, check_coreml
from cdm_export.coreml.interpreter.execute import execute
from cdm_export.coreml.interpreter.program import load_program
from cdm_export.coreml.quantize import check_quantized, quantize
from cdm_export.coreml.worker import CoremlJob, Integers, make_coreml
from cdm_export.parity.compare import compare
from cdm_export.parity.golden import load_reference
from cdm_export.progress import Silent
from cdm_export.quantize.smoothquant import smoothable
from cdm_export.reference_model.variant import NETWORK
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import QUANTIZED, ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.coreml_target import get_target
from cdm_export.runtimes.errors import BundleError, InputError
from cdm_export.runtimes.graph_precision import Island, IslandKind, PrecisionPlan
from cdm_export.transforms import specialize_for
from parity_tests.coreml_bundle import OUTPUT, package
from parity_tests.coreml_operation import random

STEPS = {"conv": 0.015, "twice": 0.01, "last": 0.004}
ISLAND = Island(kind=IslandKind.RESOLUTION, module="wide", reason="its resolution", output_dtype="fp32")
TYPING = PrecisionPlan(precision="fp16", islands=(ISLAND,), residuals={}, inputs={})


class Layers(nn.Module):
    """A convolution, a linear layer that runs twice, one nobody names, one that stays FP32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 64, 3, padding=1)
        self.twice = nn.Linear(64, 64)
        self.other = nn.Linear(64, 64)
        self.last = nn.Linear(64, 64, bias=False)
        self.wide = nn.Linear(64, 1)

    def forward(self, image):
        tokens = self.conv(image).permute(0, 2, 3, 1)
        tokens = self.other(F.gelu(self.twice(F.gelu(self.twice(tokens)))))
        return self.wide(self.last(tokens)).permute(0, 3, 1, 2)


class GraphInterface(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Layers()

    def forward(self, image):
        return self.network(image)


@pytest.fixture(scope="module")
def contract():
    def plane(name, channels, **made):
        return TensorSpec(name=name, shape=(1, channels, 14, 14), unit="1/m", **made)

    image = {"source": "rgb", "processing": Processing(resize="cubic", normalization="unit")}

    return ModelContract(
        model="cdm-vitt", semantics=Semantics.INVERSE_DEPTH, inputs=(plane("image", 3, **image),), 
        outputs=(plane("out", 1),),
        camera=Size(14, 14), network=Size(14, 14), content=Size(14, 14), input_size=14, channel_order="rgb",
        sizing=Sizing(rule="camera", multiple=1),
    )  # fmt: skip


@pytest.fixture(scope="module", params=["macos14", "macos15"])
def made(request, contract):
    """A half-precision model for a system."""
    return convert(trace(GraphInterface().eval(), contract), contract, get_target(request.param), TYPING, "", "")


@pytest.fixture(scope="module")
def quantized(made, contract, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantized") / "it.mlpackage"
    save(quantize(made, STEPS, contract, "", ""), path)
    return load_program(path)


def in_pytorch(network, steps):
    """Every named layer with its input in steps and its weights in 255 values per output channel."""

    def round_input(step):
        half = float(np.float16(step))
        return lambda module, args: torch.fake_quantize_per_tensor_affine(args[0], half, 0, -128, 127)

    for path, layer in network.named_modules():
        if path in steps:
            layer.register_forward_pre_hook(round_input(steps[path]))
            rows = layer.weight.data.flatten(1)
            scale = rows.abs().amax(dim=1, keepdim=True) / 127
            layer.weight.data = (torch.round(rows / scale) * scale).reshape(layer.weight.shape)
    return network


def test_only_the_layers_named_read_integers(quantized):
    made = {operation.name: operation for operation in quantized.operations}
    reads = [
        (quantized.module_of(one.name), made[one.inputs["x"].name].kind, "weight" in one.inputs)
        for one in quantized.operations
        if one.kind in ("linear", "conv")
    ]
    assert [(path, kind == "dequantize") for path, kind, _ in reads] == [
        ("conv", True), ("twice", True), ("twice", True), ("other", False), ("last", True), ("wide", False),
    ]  # fmt: skip
    assert sum(one.kind == "quantize" for one in quantized.operations) == 4
    assert all(made[name].outputs[0].dtype == "int8" for name, one in made.items() if one.kind == "quantize")


@pytest.mark.parametrize("layer", STEPS)
def test_it_computes_what_pytorch_does_in_integers(made, contract, tmp_path, layer):
    """One layer at a time: half's roundings move single values by a step, and each layer after it more of them."""
    steps, image = {layer: STEPS[layer]}, random(1, 3, 14, 14, scale=0.5)
    network = GraphInterface().eval()
    with torch.no_grad():
        exact = network(image)
        in_pytorch(network.network, steps)
        expected = network(image)
    save(quantize(made, steps, contract, "", ""), tmp_path / "it.mlpackage")
    (got,) = execute(load_program(tmp_path / "it.mlpackage"), {"image": image}).values()
    lost = float((expected - exact).norm() / exact.norm())
    apart = float((got - expected).norm() / expected.norm())
    assert 0.001 < lost < 0.02 and apart < lost / 2


def test_what_was_saved_is_checked(quantized):
    check_quantized(quantized, STEPS)
    with pytest.raises(BundleError, match=r"\(last\) reads steps of 0.004\d*, expected 0.0599"):
        check_quantized(quantized, STEPS | {"last": 0.06})
    with pytest.raises(BundleError, match=r"\(other\) reads steps of None, expected 0.0100"):
        check_quantized(quantized, STEPS | {"other": 0.01})
    with pytest.raises(BundleError, match=r"\(last\) reads steps of 0.004\d*, expected None"):
        check_quantized(quantized, {path: step for path, step in STEPS.items() if path != "last"})


def test_layers_that_cannot_be(made, contract):
    with pytest.raises(InputError, match="no layer 'lost'"):
        quantize(made, STEPS | {"lost": 0.1}, contract, "", "")
    with pytest.raises(InputError, match="'wide' computes in FP32"):
        quantize(made, STEPS | {"wide": 0.1}, contract, "", "")


def test_what_it_takes():
    request = CoremlRequest("macos14", (QUANTIZED,))
    check_coreml(request, ("fp16",), True)
    with pytest.raises(InputError, match="takes the activation steps that int8 is calibrated with") as raised:
        check_coreml(request, ("fp16",), False)
    assert "--calibration" in raised.value.next_step
    with pytest.raises(InputError, match="8-bit activations begin with macos14"):
        check_coreml(CoremlRequest("macos13", (QUANTIZED,)), ("fp16",), True)


def test_a_whole_network_smoothed(together, coreml_bundle, tmp_path, mini_variant):
    """As an export makes it, of the network that was smoothed: other weights inside, the same depth."""
    manifest = Bundle.open(coreml_bundle).manifest
    contract, layer = manifest.contract, "pretrained.blocks.0.attn.qkv"
    exportable = mini_variant.exportable(mini_variant.build(), contract.channel_order)
    specialize_for(contract, exportable, exclude=("linear_layout",))
    scales = {
        target.path: (0.5, 2.0) * (target.divided[0].shape[0] // 2)
        for target in smoothable(exportable.get_submodule(NETWORK), mini_variant.quantization)
    }  # fmt: skip
    half = next(one for one in manifest.artifacts if one.name == "coreml/fp16")
    job = CoremlJob(
        contract=contract, weights=WeightsSource(seeded=manifest.provenance.random_weights), license="",
        image=None, precision_plan=None, target="macos15", compressions=(), folder=str(tmp_path),
        integers=Integers(steps={layer: 0.08}, scales=scales, precision_plan=half.precision_plan),
    )  # fmt: skip
    made = make_coreml(job, Silent())[-1]
    assert made.precision == QUANTIZED
    assert (made.graph.nodes["quantize"], made.graph.nodes["dequantize"]) == ({"int8": 1}, {"fp16": 1})
    program = load_program(tmp_path / f"{QUANTIZED}.mlpackage")
    arrays = load_reference(coreml_bundle / manifest.golden[0].file.path)
    output = execute(program, {spec.name: torch.from_numpy(arrays[spec.name]) for spec in contract.inputs})
    parity = compare("it", arrays["raw_output"], output[OUTPUT].numpy(), contract, QUANTIZED)
    assert parity.verdict == "passed", parity.reason
    before, after = (
        next(
            one.inputs["gamma"] for one in found.operations if found.module_of(one.name) == "pretrained.blocks.0.norm1"
        )
        for found in (load_program(package(coreml_bundle, "fp16")), program)
    )
    torch.testing.assert_close(after * torch.tensor(scales[layer], dtype=after.dtype), before)
