"""Low-precision arithmetic on a CPU, fast enough for whole frames, that overflows as a device's does.

Every result is rounded to its type; products accumulate in FP32 and take their bias there, as tensor cores do.
PyTorch's own half matrix products on a CPU mean the same and run at 3 GFLOP/s; ONNX Runtime's CPU computes FP16 nodes
in FP32 and hides overflow.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

COMPUTE_OPS = (
    torch.ops.aten.matmul.default,  # seen whole in inference mode, in parts otherwise
    torch.ops.aten.linear.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv_transpose2d.input,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
)
"""Everything else PyTorch already computes in FP32 and rounds once."""


class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, low-precision products run in FP32 and their results are rounded to the operands' type.

    Of a product that has a bias added right after it, only the sum is rounded.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._last: tuple[Tensor, Tensor] | None = None  # rounded and not, of the product before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        if func.is_view or func is torch.ops.aten._unsafe_view.default:
            return func(*args, **(kwargs or {}))
        last, self._last = self._last, None
        if last is not None and func is torch.ops.aten.add.Tensor and _is_bias_of(args, last[0]):
            return (last[1].reshape(args[0].shape) + args[1].float()).to(args[0].dtype)
        low = args[0].dtype if func in COMPUTE_OPS else None
        if low not in (torch.float16, torch.bfloat16):
            return func(*args, **(kwargs or {}))
        widened = tree_map(lambda value: value.float() if isinstance(value, Tensor) else value, args)
        exact = func(*widened, **(kwargs or {}))
        rounded: Tensor = exact.to(low)
        self._last = (rounded, exact)
        return rounded


def _is_bias_of(operands: tuple[Any, ...], product: Tensor) -> bool:
    """Whether the sum adds one number per channel to (a view of) this product."""
    first, second = operands[:2]
    return (
        isinstance(second, Tensor)
        and second.ndim == 1
        and first.untyped_storage().data_ptr() == product.untyped_storage().data_ptr()
    )
