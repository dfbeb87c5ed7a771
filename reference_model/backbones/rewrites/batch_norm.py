"""A batch norm goes into the convolution before it.

    (W x + b - m) / s * g + h   ->   (g/s W) x + (b - m) g/s + h,   s = sqrt(variance + epsilon)

Which convolution that is, is seen by running the network on tensors without data: a norm is folded where nothing else
reads what its convolution makes.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cdm_export.reference_model.exportable import ExportableNetwork
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size

_Norm = nn.BatchNorm2d | nn.BatchNorm3d
_Transposed = nn.ConvTranspose2d | nn.ConvTranspose3d
_Convolution = nn.Conv2d | nn.Conv3d | _Transposed


def _norms(network: nn.Module) -> dict[_Norm, str]:
    return {module: path for path, module in network.named_modules() if isinstance(module, _Norm)}


def _pairs(network: ExportableNetwork, size: Size) -> dict[_Norm, _Convolution]:
    """Norms that always come right after one convolution, and nothing else does."""
    made: dict[int, _Convolution] = {}
    kept: list[Tensor] = []  # an id is one tensor's while that lives
    before: dict[_Norm, set[_Convolution | None]] = {}
    calls: Counter[nn.Module] = Counter()

    def after(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        calls[module] += 1
        if isinstance(module, _Convolution) and not (isinstance(module, _Transposed) and module.groups > 1):
            made[id(out)] = module
            kept.append(out)
        elif isinstance(module, _Norm):
            before.setdefault(module, set()).add(made.get(id(given[0])))
            kept.append(given[0])

    handles = [module.register_forward_hook(after) for module in network.modules()]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            kind = next(network.parameters()).dtype
            image = mode.from_tensor(torch.empty(1, 3, size.height, size.width, dtype=kind))
            network(*[image] * network.images)
    finally:
        for handle in handles:
            handle.remove()
    readers = Counter(convolution for found in before.values() for convolution in found)
    pairs = {}
    for norm, found in before.items():
        (convolution, *others) = found
        if convolution is not None and not others and readers[convolution] == 1 and calls[norm] == calls[convolution]:
            pairs[norm] = convolution
    return pairs


@torch.no_grad()
def _fold(norm: _Norm, convolution: _Convolution) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    mean, deviation = norm.running_mean.double(), (norm.running_var.double() + norm.eps).sqrt()
    gain = (1 if norm.weight is None else norm.weight.double()) / deviation
    shift = (0 if convolution.bias is None else convolution.bias.double()) - mean
    bias = shift * gain + (0 if norm.bias is None else norm.bias.double())
    kind = convolution.weight.dtype
    of_output = [1] * convolution.weight.ndim
    of_output[1 if isinstance(convolution, _Transposed) else 0] = -1
    weight = convolution.weight.double() * gain.reshape(of_output)
    convolution.weight = nn.Parameter(weight.to(kind), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(kind), requires_grad=False)


def check(network: nn.Module) -> str | None:
    """There are batch norms, in a network whose inputs are images."""
    if not isinstance(network, ExportableNetwork):
        return "the network does not stand behind its interface"
    return None if _norms(network) else "there is no batch norm"


def apply(network: nn.Module, size: Size) -> Saving:
    """Fold every norm that comes right after a convolution."""
    assert isinstance(network, ExportableNetwork)
    pairs = _pairs(network, size)
    for norm, convolution in pairs.items():
        _fold(norm, convolution)
    for parent in network.modules():
        for name, child in parent.named_children():
            if child in pairs:
                setattr(parent, name, nn.Identity())
    return Saving(len(pairs), nodes=0)  # the exporter folds them as well; PyTorch and the plan of precisions do not
