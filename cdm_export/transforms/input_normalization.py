"""Mean, standard deviation and plane order go into the patch embedding.

    conv(W, (x[planes] - m) / s) + b = conv(W', x) + b - sum W m / s,   W'[:, planes] = W / s

Exact where that convolution has no padding: then every output sees every constant. With padding it does not: a padded
zero stands for the mean, and the folded convolution would see black instead.
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.exportable import ExportableNetwork, ImageNormalization
from cdm_export.reference_model.rewriting.conditions import mismatch
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


def check(network: nn.Module) -> str | None:
    """The image goes through a normalization into one convolution without padding, over all of its planes."""
    if not isinstance(network, ExportableNetwork) or not isinstance(network.normalize, ImageNormalization):
        return "the image is not normalized before the network, or not by planes"
    path = network.projection
    if not path:
        return "no convolution is known to read the image alone"
    try:
        proj = network.network.get_submodule(path)
    except AttributeError:
        return f"the network has no {path} to fold the normalization into"
    if not isinstance(proj, nn.Conv2d):
        return f"{path} is no convolution but {type(proj).__name__}"
    return mismatch(path, proj, bias=True, padding=(0, 0), groups=1, in_channels=3)


@torch.no_grad()
def apply(network: nn.Module, size: Size) -> Saving:
    """Fold the normalization that stands before the encoder of the image."""
    assert isinstance(network, ExportableNetwork) and isinstance(network.normalize, ImageNormalization)
    normalize = network.normalize
    proj = network.network.get_submodule(network.projection)
    assert isinstance(proj, nn.Conv2d) and proj.bias is not None
    # Summed in float64: the bias collects 588 products per channel.
    weight: Tensor = proj.weight.double() / normalize.std.double()
    shift = (weight * normalize.mean.double()).sum(dim=(1, 2, 3))
    folded = torch.empty_like(weight)
    folded[:, list(normalize.planes)] = weight
    bias = proj.bias.double() - shift
    proj.weight = nn.Parameter(folded.to(proj.weight.dtype), requires_grad=False)
    proj.bias = nn.Parameter(bias.to(proj.bias.dtype), requires_grad=False)
    network.normalize = nn.Identity()
    return Saving(1, nodes=5 if normalize.planes != (0, 1, 2) else 2)
