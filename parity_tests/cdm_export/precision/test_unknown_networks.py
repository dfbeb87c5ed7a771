"""Networks that no family describes: planned from measured ranges and their layers alone, typed without a hint."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cdm_export.onnx.audit import audit
from cdm_export.onnx.convert import OPSET, OPSET_BF16, export_onnx
from cdm_export.precision.plan import MARGIN, plan
from cdm_export.precision.range_scan import RangeScan
from cdm_export.precision.rounded import RoundedProducts
from cdm_export.precision.typed_modules import type_network
from cdm_export.reference_model.exportable import ExportableNetwork
from cdm_export.reference_model.policies import PrecisionPolicy, QuantizationPolicy
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.variant import ImageStatistics
from cdm_export.runtimes.contract import ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.graph_precision import IslandKind
from cdm_export.transforms import SHARED, specialize

SIZE = Size(32, 24)


class Plain(nn.Module):
    """Three convolutions, the stem padded; activations as functions and as modules, a sum, a GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.middle = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 1))
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image):
        fine = F.relu(self.norm(self.stem(image)))
        return self.head(F.gelu(self.up(self.middle(fine))) + fine)


class Products(nn.Module):
    """A matrix product of its own, as correlation has, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Conv2d(SIZE.width, 1, 1)

    def forward(self, image):
        left, right = self.left(image).permute(0, 2, 3, 1), self.right(image).permute(0, 2, 1, 3)
        return self.head((left @ right).permute(0, 3, 1, 2))


def contract() -> ModelContract:
    plane = (SIZE.height, SIZE.width)
    image = Processing(resize="bilinear", normalization="unit")
    return ModelContract(
        model="toy", semantics=Semantics.METRIC_DEPTH, camera=SIZE, network=SIZE, content=SIZE, input_size=24,
        channel_order="rgb", sizing=Sizing(rule="camera", multiple=8),
        inputs=(TensorSpec(name="image", shape=(1, 3, *plane), unit="", source="rgb", processing=image),),
        outputs=(TensorSpec(name="out", shape=(1, 1, *plane), unit="m"),),
    )  # fmt: skip


@pytest.fixture(params=[Plain, Products])
def network(request):
    torch.manual_seed(0)
    statistics = ImageStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ExportableNetwork(request.param(), "rgb", statistics).eval().requires_grad_(False)


def typed(network, precision="fp16"):
    """(FP32 output, typed output, plan), after every shared rule had its say."""
    image = torch.rand(1, 3, SIZE.height, SIZE.width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = network(image)
        savings = specialize(network, SIZE, SHARED)
        assert torch.equal(network(image), before), {name: saving for name, saving in savings.items() if saving.modules}
        with RangeScan() as scan:
            network(image)
        planned = type_network(network, plan(network.network, scan.max_abs, PrecisionPolicy(), precision), contract())
        with RoundedProducts():
            after = network(image)
    return before, after, planned


def error(before, after):
    return float((after - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_it_types_without_a_hint(network, precision, tmp_path):
    before, after, planned = typed(network, precision)
    assert before.std() > 1e-3 and error(before, after) <= (5e-3 if precision == "fp16" else 3e-2)
    assert not any(island.kind is IslandKind.RANGE for island in planned.islands)
    low = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    weights = [parameter.dtype for parameter in network.parameters() if parameter.ndim == 4]
    assert weights and all(dtype is low for dtype in weights)
    path = tmp_path / f"{precision}.onnx"
    export_onnx(network, contract(), path, opset=OPSET if precision == "fp16" else OPSET_BF16)
    counted = audit(path, planned)  # every cast is explained, every product is of the type that was planned
    assert set(counted.nodes["Conv"]) == {"FLOAT16" if precision == "fp16" else "BFLOAT16"}
    assert "unexplained" not in counted.casts


@pytest.mark.parametrize("layer", ["stem", "middle.0", "middle.2", "up"])
def test_one_large_activation_becomes_the_smallest_island(layer, tmp_path):
    torch.manual_seed(0)
    network = ExportableNetwork(Plain(), "rgb", ImageStatistics()).eval().requires_grad_(False)
    network.network.norm = nn.Identity()  # it would take the size away
    module, seen = network.network.get_submodule(layer), []
    module.weight.mul_(3e5)
    hook = module.register_forward_hook(lambda module, given, out: seen.append(float(out.abs().max())))
    network(torch.rand(1, 3, SIZE.height, SIZE.width, generator=torch.Generator().manual_seed(1)))
    hook.remove()
    assert max(seen) > 65504 / MARGIN, "it was meant to be too large"
    before, after, planned = typed(network)
    islands = {island.module: island for island in planned.islands if island.kind is IslandKind.RANGE}
    assert layer in islands and islands[layer].output_dtype == "fp32"
    assert torch.isfinite(after).all() and error(before, after) <= 5e-3
    export_onnx(network, contract(), tmp_path / "fp16.onnx")
    assert "unexplained" not in audit(tmp_path / "fp16.onnx", planned).casts
    if layer in ("middle.2", "up"):
        assert not {"stem", "middle.0"} & set(islands), "what comes before is small and stays FP16"


def test_sums_that_are_too_large_are_fp32():
    """Both summands fit, their sum does not."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
            self.head = nn.Conv2d(16, 1, 1)

        def forward(self, image):
            return self.head((self.one(image) + self.other(image)) * 1e-4)

    network = ExportableNetwork(Sum(), "rgb", ImageStatistics()).eval().requires_grad_(False)
    for name in ("one", "other"):
        layer = network.network.get_submodule(name)
        layer.weight.zero_()
        layer.bias.fill_(12_000.0)  # under the limit of 16 376, twice it is not
    before, after, planned = typed(network)
    assert set(planned.outputs) == {"one", "other", "head"} and error(before, after) <= 5e-3


def test_a_weight_that_does_not_fit_is_refused():
    network = ExportableNetwork(Plain(), "rgb", ImageStatistics()).eval().requires_grad_(False)
    network.network.head.weight[0, 0, 0, 0] = 1e6
    image = torch.zeros(1, 3, SIZE.height, SIZE.width)
    network.network.head.bias.zero_()
    with torch.inference_mode(), RangeScan() as scan:
        network(image * 0)
    small = dict.fromkeys(scan.max_abs, 0.0)
    with pytest.raises(ParityError, match=r"weight head\.weight reaches 1e\+06"):
        type_network(network, plan(network.network, small, PrecisionPolicy(), "fp16"), contract())


def test_a_family_without_its_hooks_is_exported_all_the_same(mini_variant):
    """CDM stripped of rewrites, policies, sections: exact in FP32, right in FP16, only slower."""
    from cdm_export.reference_model.random_weights import seeded_network
    from cdm_export.transforms import rules_of

    bare = replace(
        mini_variant, rewrites=dict, precision=PrecisionPolicy(), quantization=QuantizationPolicy(), sections=()
    )
    model = get_variant("cdm-vits").contract("cdm-vits", Size(98, 70), 70)
    network = bare.exportable(seeded_network(bare, 3), "bgr").eval()
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.rand(1, channels, 70, 98, generator=generator) for channels in (3, 1)]
    with torch.inference_mode():
        before = network(*inputs)
        savings = specialize(network, Size(98, 70), rules_of(bare))
        exact = network(*inputs)
        assert error(before, exact) <= 1e-5 and "two_token_attention" not in savings
        with RangeScan() as scan:
            network(*inputs)
        type_network(network, plan(network.network, scan.max_abs, bare.precision, "fp16"), model)
        with RoundedProducts():
            after = network(*inputs)
    assert before.std() > 1e-3 and error(before, after) <= 2e-2
