"""A network that computes as its quantized graph will: inputs and weights of chosen layers rounded to integers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from cdm_export.quantize.layers import Quantizable, rounded


@contextmanager
def quantized(layers: Mapping[str, Quantizable], steps: Mapping[str, float]) -> Iterator[None]:
    """While entered, ``layers`` read integers times their step; float32 holds the sums.

    ``steps``: of each layer's input, by path. Weights come back as they were, bit by bit.
    """

    def round_input(step: float) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def round_one(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (torch.fake_quantize_per_tensor_affine(inputs[0], step, 0, -128, 127), *inputs[1:])

        return round_one

    with ExitStack() as stack:
        for path, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(round_input(steps[path])).remove)
            stack.callback(setattr, layer, "weight", layer.weight)
            layer.weight = nn.Parameter(rounded(layer.weight), requires_grad=False)
        yield
