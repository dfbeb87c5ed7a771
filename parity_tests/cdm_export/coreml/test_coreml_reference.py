"""The Core ML interpreter as a whole: rounding between operations, what it refuses, and saved packages.

The programs are built by coremltools, saved, and read back as any package is; the operations one by one are tested in
``test_coreml_arithmetic.py``, ``test_coreml_layout.py`` and ``test_coreml_integers.py``.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("coremltools")

from cdm_export.coreml.convert import import_coremltools
from cdm_export.coreml.interpreter.execute import KNOWN, execute
from cdm_export.coreml.interpreter.program import Operation, Program, Reference, ValueType, load_program
from cdm_export.runtimes.errors import BundleError
from parity_tests.coreml_operation import close, random

# --- rounding ---------------------------------------------------------------------------------------------------------


def program(kind, operands, dtype, shape, inputs=("x",), modules=None):
    kept = {name: Reference(name) if name in inputs else value for name, value in operands.items()}
    return Program(
        inputs=tuple(ValueType(name, dtype, tuple(operands[name].shape)) for name in inputs),
        outputs=("y",),
        operations=(Operation(kind, kept, (ValueType("y", dtype, shape),)),),
        modules=modules or {},
        metadata={},
        images={},
    )


def test_half_results_are_rounded_and_overflow():
    x = torch.tensor([1.0, 40000.0, 0.1])
    made = program("add", {"x": x, "y": x.half()}, "fp16", (3,))
    got = execute(made, {"x": x})["y"]
    assert got.dtype is torch.float16
    assert got.tolist() == [2.0, math.inf, (2 * x[2].half().float()).half().item()]


def test_sums_are_wide_unless_strict():
    """1 + 4096 x 2^-11: in half every addend vanishes against 1, in FP32 none does."""
    x = torch.full((1, 4097), 2.0**-12)
    x[0, 0] = 1
    made = program("reduce_sum", {"x": x, "axes": torch.tensor([1])}, "fp16", (1,), modules={"y": "part.norm"})
    assert execute(made, {"x": x})["y"].item() == 2.0
    assert execute(made, {"x": x}, strict=["part"])["y"].item() == 1.0
    assert execute(made, {"x": x}, strict=["par"])["y"].item() == 2.0


def test_a_wrong_shape_is_an_error():
    made = program("relu", {"x": torch.ones(3)}, "fp32", (4,))
    with pytest.raises(BundleError, match=r"'y' \(relu\) makes \[3\], the program says \[4\]"):
        execute(made, {"x": torch.ones(3)})


def test_an_unknown_operation_is_an_error_with_its_name():
    with pytest.raises(BundleError, match="'y' is a 'topk'"):
        execute(program("topk", {"x": torch.ones(3)}, "fp32", (3,)), {"x": torch.ones(3)})


def test_constants_that_are_cast():
    made = program("constexpr_cast", {"source_val": torch.tensor([0.1, 70000.0])}, "fp16", (2,), inputs=())
    assert execute(made, {})["y"].tolist() == [torch.tensor(0.1).half().item(), math.inf]


def test_every_operation_is_tested():
    text = "".join(file.read_text() for file in Path(__file__).parent.glob("test_coreml_*.py"))
    assert {kind for kind in KNOWN if f'"{kind}"' not in text and not kind.startswith("reduce_")} == set()


# --- saved packages ---------------------------------------------------------------------------------------------------


class EveryKind(torch.nn.Module):
    """Operations that the converter writes in its own way: sizes, masks, offsets, negative axes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.spread = torch.nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = torch.nn.LayerNorm(4)
        self.linear = torch.nn.Linear(4, 6)

    def forward(self, x):
        coarse = F.gelu(self.conv(x))
        fine = self.spread(coarse)
        odd = F.interpolate(fine, size=(13, 11), mode="bilinear", align_corners=True)
        half = F.interpolate(odd, size=(20, 17), mode="bilinear", align_corners=False)
        tokens = self.norm(half.flatten(2).transpose(1, 2))
        q, k, v = self.linear(tokens).reshape(1, -1, 3, 2).unbind(2)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        gate, value = torch.cat((mixed, tokens[..., 1:3]), dim=-1).chunk(2, dim=-1)
        return F.silu(gate) * value.sigmoid() + tokens[:, :, -2:].mean(dim=1, keepdim=True)


@pytest.mark.parametrize("target", ["macOS13", "macOS14", "macOS15"])
def test_a_saved_package_computes_what_pytorch_does(tmp_path, target):
    ct = import_coremltools()
    network, x = EveryKind().eval(), random(1, 3, 16, 12)
    exported = torch.export.export(network, (x,)).run_decompositions({})
    model = ct.convert(
        exported, inputs=[ct.TensorType(name="x", shape=x.shape)], minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(tmp_path / "it.mlpackage"))
    loaded = load_program(tmp_path / "it.mlpackage")
    with torch.no_grad():
        expected = network(x)
    (got,) = execute(loaded, {"x": x}).values()
    close(got, expected, 2e-5)
