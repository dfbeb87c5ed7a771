"""Type a specialized network in place: low-precision weights and activations, casts only where the plan says.

Casts are modules of the network, so that in the exported graph each carries the path of the island it belongs to.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cdm_export.precision.original_path import WRAPPED
from cdm_export.reference_model.backbones.vit import Block, DinoV2
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.graph_precision import PrecisionPlan, within

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class FloatIsland(nn.Module):
    """Takes any floating-point type, gives the module FP32, hands on ``out``.

    Around a block whose weights stay in low precision, it is the residual stream that is FP32.
    """

    def __init__(self, module: nn.Module, out: torch.dtype) -> None:
        super().__init__()
        self.add_module(WRAPPED, module)
        self.out = out

    def forward(self, *inputs: object) -> Tensor:
        """Cast, run, cast."""
        result: Tensor = getattr(self, WRAPPED)(*map(_in_fp32, inputs))
        return result.to(self.out)


def _in_fp32(value: object) -> object:
    """Tensors, and lists of them, in FP32; sizes as they are."""
    if isinstance(value, Tensor):
        return value.float()
    return [_in_fp32(item) for item in value] if isinstance(value, list) else value


class ToFloat(nn.Module):
    """Stands where LayerScale stood: what a branch adds to an FP32 residual stream."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Cast to FP32."""
        return tokens.float()


class CastInput(nn.Module):
    """A graph input, FP32, enters a module of low precision."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.add_module(WRAPPED, module)
        self.dtype = dtype

    def forward(self, tensor: Tensor) -> Tensor:
        """Cast, then run."""
        result: Tensor = getattr(self, WRAPPED)(tensor.to(self.dtype))
        return result


@torch.no_grad()
def type_network(network: nn.Module, precision_plan: PrecisionPlan) -> None:
    """Type a network (without its interface) in place. Raises ParityError for a weight that is Inf in low precision."""
    low = _DTYPES[precision_plan.precision]
    for name, parameter in network.named_parameters():
        if precision_plan.computes_in_fp32(name):
            continue
        converted = parameter.to(low)
        if not converted.isfinite().all():
            raise ParityError(
                f"weight {name} reaches {float(parameter.abs().max()):.3g}, too much for {precision_plan.precision}",
                "Export without it: --precision fp32",
            )
        parameter.data = converted  # one weight at a time exists twice
    # Inner modules first: wrapping moves what is inside a path.
    for island in sorted(precision_plan.islands, key=lambda island: -len(island.module)):
        if any(within(island.module, other.module) for other in precision_plan.islands if other is not island):
            continue  # it computes in FP32 as part of a larger island
        out = low if island.output_dtype == "low" else torch.float32
        _replace(network, island.module, partial(FloatIsland, out=out))
    for path in precision_plan.inputs:
        _replace(network, path, partial(CastInput, dtype=low))
    for path, encoder in list(network.named_modules()):
        if isinstance(encoder, DinoV2):
            _float_residuals(path, encoder, precision_plan, low)


def _float_residuals(path: str, encoder: DinoV2, precision_plan: PrecisionPlan, low: torch.dtype) -> None:
    float_here = [f"{path}.blocks.{index}" in precision_plan.residuals for index in range(len(encoder.blocks))]
    # The final norm takes FP32 as it is; another block wants the type its own residual has.
    float_next = [*float_here[1:], True]
    for index, (here, following) in enumerate(zip(float_here, float_next, strict=True)):
        if here:
            block = encoder.blocks[index]
            # What stands in LayerScale's slot is replaced: its scale must have been folded away.
            assert (
                isinstance(block, Block) and isinstance(block.ls1, nn.Identity) and isinstance(block.ls2, nn.Identity)
            )
            block.ls1, block.ls2 = ToFloat(), ToFloat()  # type: ignore[assignment]
            encoder.blocks[index] = FloatIsland(block, torch.float32 if following else low)


def _replace(network: nn.Module, path: str, make: Callable[[nn.Module], nn.Module]) -> None:
    parent, _, name = path.rpartition(".")
    holder = network.get_submodule(parent)
    setattr(holder, name, make(holder.get_submodule(name)))
