"""Seeded weights for recurrent stereo networks: every layer hands on unit variance on a rendered pair, and every
iteration moves the flow a little, differently from place to place.

Fresh weights are useless here: signals die or explode over iterations, and flow that leaves the image reads zeros or
the image's border, which hides errors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PAIR = (96, 160)
"""Height and width of the rendered pair."""
_BIAS = 0.1
"""Of what is added to unit variance."""


def rendered_pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two [1, 3, 96, 160] in -1..1: a smooth random texture, seen from two places; disparities of 2 to 12 px."""
    height, width = _PAIR
    texture = torch.zeros(1, 3, height, width)
    for cell in (3, 6, 12, 24):
        noise = torch.randn(1, 3, height // cell + 2, width // cell + 2, generator=generator)
        texture += F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)
    coarse = torch.rand(1, 1, 4, 5, generator=generator)
    disparity = 2 + 10 * F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)[:, 0]
    rows = torch.linspace(-1, 1, height)[None, :, None].expand(1, height, width)
    columns = (torch.arange(width) + disparity) * 2 / (width - 1) - 1
    grid = torch.stack((columns, rows), dim=-1)
    right = F.grid_sample(texture, grid, align_corners=True, padding_mode="reflection")
    return tuple(torch.tanh(0.5 * image) for image in (texture, right))  # type: ignore[return-value]


@torch.no_grad()
def seed_layers(
    network: nn.Module, generator: torch.Generator, steps: str, mean: float, spread: float, *, channel: int = 0
) -> None:
    """Fill a network that takes a pair. ``steps``: path of the convolution whose output is the step of an iteration;
    there it has ``mean`` and standard deviation ``spread``, coarse pixels.
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight"):
            parameter.normal_(1, 0.1, generator=generator)  # a norm
        else:
            parameter.normal_(0, _BIAS, generator=generator)
    last = network.get_submodule(steps)
    seen: set[nn.Module] = set()

    def statistics(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if module not in seen and isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            seen.add(module)
            assert module.running_mean is not None and module.running_var is not None
            others = [axis for axis in range(given[0].ndim) if axis != 1]
            module.running_mean.copy_(given[0].mean(dim=others))
            module.running_var.copy_(given[0].var(dim=others) + 1e-3)

    def unit(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if module in seen:
            return None
        seen.add(module)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        if module is last:
            assert isinstance(bias, Tensor)
            scale = spread / out[:, channel].std()
            weight.mul_(scale)
            bias.mul_(scale)
            bias.sub_(scale * out.mean(dim=(0, 2, 3)))
            bias[channel] += mean
        else:
            weight.div_(out.std())
            if isinstance(bias, Tensor):
                bias.div_(out.std())
        if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
            return out / out.std()
        return module._conv_forward(given[0], weight, bias)  # type: ignore[operator, no-any-return]

    convolutions = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    handles = [module.register_forward_hook(unit) for module in network.modules() if isinstance(module, convolutions)]
    handles += [module.register_forward_pre_hook(statistics) for module in network.modules()]
    try:
        network(*rendered_pair(generator))
    finally:
        for handle in handles:
            handle.remove()
