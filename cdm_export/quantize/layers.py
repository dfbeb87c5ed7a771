"""Which layers of a specialized network may be quantized, and which of them stand or fall together."""

import numpy as np
import torch
from torch import Tensor, nn

from cdm_export.reference_model.policies import matching
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.graph_precision import within
from cdm_export.transforms.phase_convolution import PhaseConvolution

LARGEST = 127
"""Of a weight's integers; -128 is not used, so that they are symmetric. Activations saturate at -128 and 127."""
_LEAST_WIDTH = 16
"""Channels in and out under which integer kernels do not pay (NVIDIA's Model Optimizer has the same rule)."""

Quantizable = nn.Linear | nn.Conv2d | PhaseConvolution
"""Modules with one product: activations come in, ``weight`` has the output channels on its first axis."""


def quantizable(network: nn.Module, variant: Variant) -> dict[str, Quantizable]:
    """Linear layers and convolutions by path, in network order; before ``linear_layout`` takes the linear ones away.

    Matrix products of attention, norms and sums are none of them; the last convolution writes the depth. What the
    forward never reads is in no graph. What reads pixels or writes depth has too few channels anyway.
    """
    never = list(matching((path for path, _ in network.named_modules()), variant.quantization.never))
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | PhaseConvolution)
        and path != variant.last_convolution
        and not any(unused in f"{path}.weight" for unused in variant.unused_parameters)
        and not any(within(path, other) for other in never)
        and min(module.weight.shape[:2]) >= _LEAST_WIDTH
    }


def groups(network: nn.Module, layers: dict[str, Quantizable], variant: Variant) -> dict[str, tuple[str, ...]]:
    """Layers by the part of the network they are in: what the family wants as a whole, else a stage of one of its
    sections, else one of the network's children.
    """
    wholes = list(matching((path for path, _ in network.named_modules()), variant.quantization.parts))
    found: dict[str, list[str]] = {}
    for path in layers:
        parts = path.split(".")
        prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        alone = path if variant.sections else prefixes[0]
        stage = next((name for name in prefixes if any(section.holds(name) for section in variant.sections)), alone)
        found.setdefault(next((whole for whole in wholes if within(path, whole)), stage), []).append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def weight_steps(weight: Tensor) -> Tensor:
    """Step per output channel [out], a float16 number in float32, so that the graphs of both precisions can hold it.

    Rounded up, so that the largest weight is not cut; a channel of zeros gets the smallest step.
    """
    return round_up(weight.detach().abs().flatten(1).amax(dim=1).double() / LARGEST)


def step_of(bound: float) -> float:
    """Step of an activation whose integers reach ``bound``, a float16 number as well."""
    return float(round_up(torch.tensor(bound / LARGEST, dtype=torch.float64)))


def round_up(steps: Tensor) -> Tensor:
    """The nearest float16 number that is not smaller, as float32; at least the smallest positive one."""
    exact = steps.detach().double().numpy()
    half = exact.astype(np.float16)
    raised = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    return torch.from_numpy(np.asarray(np.maximum(raised, np.float16(2.0**-24)), np.float32))


def rounded(weight: Tensor) -> Tensor:
    """Weights as their integers times their steps, float32: what a quantized graph computes with."""
    steps = weight_steps(weight)
    return integers(weight, steps).float() * steps.reshape(-1, *[1] * (weight.ndim - 1))


def integers(weight: Tensor, steps: Tensor) -> Tensor:
    """Weights as int8, -127..127, in their own shape."""
    scaled = weight.detach().float() / steps.reshape(-1, *[1] * (weight.ndim - 1))
    return scaled.round().clamp(-LARGEST, LARGEST).to(dtype=scaled.dtype).char()
