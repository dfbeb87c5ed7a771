"""What a rule asks of the layers it rewrites."""

from torch import nn


def mismatch(path: str, layer: nn.Module, *, bias: bool | None = None, **expected: object) -> str | None:
    """The first attribute of ``layer`` that is not as ``expected``, in words with both values; None when all are.

    ``bias``: whether there has to be one; None when it does not matter. ``path`` names the layer.
    """
    for name, wanted in expected.items():
        got = getattr(layer, name, None)
        if got != wanted:
            return f"{path} has {name} {got}, the rule is exact for {wanted}"
    if bias is not None and (getattr(layer, "bias", None) is not None) is not bias:
        return f"{path} has {'no' if bias else 'a'} bias, the rule is exact for {'one' if bias else 'none'}"
    return None


def pointwise(path: str, layer: nn.Module) -> str | None:
    """Why ``layer`` is not a 1x1 convolution of every pixel by itself; None when it is."""
    if not isinstance(layer, nn.Conv2d):
        return f"{path} is no convolution but {type(layer).__name__}"
    return mismatch(path, layer, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0))
