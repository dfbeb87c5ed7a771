"""How sums inside an operation run: in FP32, as fused kernels do, or in half at every step, which is the worst case."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Arithmetic(Protocol):
    """Products and sums. Tensors are FP32; where the program has half they hold half values."""

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """[..., M, K] x [..., K, N] -> [..., M, N]."""
        ...

    def convolution(
        self, image: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
    ) -> Tensor:
        """Without padding or bias; any number of spatial axes."""
        ...

    def total(self, values: Tensor, axes: Sequence[int]) -> Tensor:
        """Sum over axes, which are kept."""
        ...

    def round(self, values: Tensor) -> Tensor:
        """What an intermediate result inside an operation becomes."""
        ...


class Wide:
    """Sums and intermediate results are FP32."""

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """As PyTorch has it."""
        return left @ right

    def convolution(
        self, image: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
    ) -> Tensor:
        """As PyTorch has it."""
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[weight.ndim - 2]
        result: Tensor = convolve(image, weight, None, tuple(stride), 0, tuple(dilation), groups)
        return result

    def total(self, values: Tensor, axes: Sequence[int]) -> Tensor:
        """As PyTorch has it."""
        return values.sum(dim=tuple(axes), keepdim=True)

    def round(self, values: Tensor) -> Tensor:
        """Nothing."""
        return values


class StrictHalf:
    """Every product, every partial sum and every intermediate result is rounded to half: for single blocks, slow."""

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """One term after another, each rounded."""
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        out = torch.zeros(*batch, left.shape[-2], right.shape[-1])
        for k in range(left.shape[-1]):
            out = self.round(out + self.round(left[..., :, k, None] * right[..., None, k, :]))
        return out

    def convolution(
        self, image: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
    ) -> Tensor:
        """Two spatial axes, one tap and channel after another."""
        kernel = weight.shape[2:]
        spread = [dilation[axis] * (kernel[axis] - 1) for axis in range(2)]
        rows, columns = ((image.shape[2 + axis] - spread[axis] - 1) // stride[axis] + 1 for axis in range(2))
        out = torch.zeros(image.shape[0], weight.shape[0], rows, columns)
        per_group, made = weight.shape[1], weight.shape[0] // groups
        for row in range(kernel[0]):
            for column in range(kernel[1]):
                top, left = row * dilation[0], column * dilation[1]
                seen = image[:, :, top :: stride[0], left :: stride[1]][:, :, :rows, :columns]
                for channel in range(per_group):
                    taken = seen[:, channel::per_group].repeat_interleave(made, dim=1)
                    out = self.round(out + self.round(taken * weight[None, :, channel, row, column, None, None]))
        return out

    def total(self, values: Tensor, axes: Sequence[int]) -> Tensor:
        """One value after another, axis by axis."""
        for axis in axes:
            parts = torch.split(values, 1, dim=axis)
            values = parts[0]
            for part in parts[1:]:
                values = self.round(values + part)
        return values

    def round(self, values: Tensor) -> Tensor:
        """To half and back; too large becomes Inf."""
        return values.half().float()
