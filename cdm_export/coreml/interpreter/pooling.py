"""Windows over an image that become one number each."""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cdm_export.coreml.interpreter.call import Call
from cdm_export.runtimes.errors import BundleError


def _windows(call: Call, image: Tensor, outside: float) -> Tensor:
    """[B, C, spatial] -> [B, C, windows along every axis, elements of a window]."""
    kernel = call.integers("kernel_sizes")
    stride = call.integers("strides") if call.has("strides") else [1] * len(kernel)
    kind = call.text("pad_type", "valid")
    if kind not in ("valid", "custom") or call.flag("ceil_mode"):
        raise BundleError(f"operation '{call.name}' ({call.kind}) has the padding '{kind}' or rounds up: not read")
    pad = call.integers("pad") if kind == "custom" else [0] * (2 * len(kernel))
    backwards = list(itertools.chain(*(pad[2 * axis : 2 * axis + 2] for axis in reversed(range(len(kernel))))))
    image = F.pad(image, backwards, value=outside)
    for axis, (side, step) in enumerate(zip(kernel, stride, strict=True)):
        image = image.unfold(2 + axis, side, step)
    return image.flatten(2 + len(kernel))


def avg_pool(call: Call) -> Tensor:
    """Mean of every window; what lies outside of the image counts, unless it is excluded."""
    x = call.tensor("x")
    windows = _windows(call, x, 0.0)
    total = call.arithmetic.total(windows, [windows.ndim - 1]).squeeze(-1)
    if call.flag("exclude_padding_from_average"):
        return total / _windows(call, torch.ones_like(x), 0.0).sum(dim=-1)
    return total / math.prod(call.integers("kernel_sizes"))


def max_pool(call: Call) -> Tensor:
    """Largest of every window; what lies outside of the image does not count."""
    return _windows(call, call.tensor("x"), -math.inf).amax(dim=-1)


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {"avg_pool": avg_pool, "max_pool": max_pool}
