"""What goes into every layer on the calibration frames."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cdm_export.quantize.layers import Quantizable
from cdm_export.quantize.observers import Histogram

_ROWS = 128
"""Tokens kept of a frame and layer, evenly spaced."""


@dataclass
class Gathered:
    """Of one layer's input."""

    histogram: Histogram = field(default_factory=Histogram)
    """Its magnitudes."""
    largest: Tensor | None = None
    """max |x| per channel, [in], for the layers asked for."""
    rows: list[Tensor] = field(default_factory=list)
    """Some tokens of every frame, [n, in] each, for the layers asked for."""


def gather(
    layers: Mapping[str, Quantizable], by_channel: Iterable[str], run: Iterable[Callable[[], Any]]
) -> dict[str, Gathered]:
    """Call everything in ``run`` (a forward each) and look at what enters ``layers``.

    ``by_channel``: paths of linear layers whose channels are looked at one by one. Raises ParityError for NaN or Inf.
    """
    found = {path: Gathered() for path in layers}
    channels = set(by_channel)

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            gathered, tensor = found[path], inputs[0].detach()
            gathered.histogram.add(tensor)
            if path in channels:
                tokens = tensor.flatten(0, -2)
                largest = tokens.abs().amax(dim=0)
                gathered.largest = largest if gathered.largest is None else torch.maximum(gathered.largest, largest)
                chosen = torch.linspace(0, len(tokens) - 1, min(_ROWS, len(tokens))).long()
                gathered.rows.append(tokens[chosen].clone())

        return look

    with ExitStack() as stack:
        for path, layer in layers.items():
            handle = layer.register_forward_pre_hook(hook(path))
            stack.callback(handle.remove)
        for forward in run:
            forward()
    return found
