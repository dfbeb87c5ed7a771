"""Seeded weights with a usable output range, for when there is no checkpoint: they prove plumbing, not depth.

A fresh CDM predicts 6 to 80 m, or nothing at all. One forward on a real frame measures the last convolution's output,
and an affine change of that convolution brings its 1st to 99th percentile to the range the variant names.
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.bundle import RandomWeights
from cdm_export.runtimes.errors import CheckpointError

_BRANCH = 0.1
"""Gain of LayerScale and of a residual unit's last convolution. In trained networks a branch adds little to what it is
added to; with 1 a random network makes 1.7e-3 of depth out of half precision's rounding, a trained one 0.9e-3."""


@torch.no_grad()
def seeded_network(variant: Variant, seed: int) -> nn.Module:
    """Network with seeded weights that keep signal and image dependence through all layers; range not calibrated."""
    with torch.device("meta"):
        network = variant.build()
    # Buffers have values that no seed makes: statistics of norms, tables of indices.
    plain = next(network.buffers(), None) is None
    network = network.to_empty(device="cpu") if plain else variant.build()
    network = network.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    if variant.seed is not None:
        variant.seed(network, generator)
        return network
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(_BRANCH)
        elif parameter.ndim <= 1 and name.endswith("weight"):
            parameter.fill_(1.0)  # a norm
        elif parameter.ndim <= 1:
            parameter.normal_(0, 0.02, generator=generator)
        elif parameter.ndim == 2 and parameter.shape[0] > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
        elif parameter.ndim == 4:
            branch = _BRANCH if name.endswith("conv2.weight") else 1.0
            parameter.normal_(0, branch * math.sqrt(2 / parameter[0].numel()), generator=generator)
        else:
            # Class and mask token, position embedding: as large as a patch's token, so that an error in them shows.
            parameter.normal_(0, 0.5, generator=generator)
    return network


@torch.no_grad()
def calibrate_range(
    network: nn.Module, variant: Variant, order: ChannelOrder, inputs: tuple[Tensor, ...], seed: int
) -> RandomWeights:
    """Rescale the last convolution in place so that its output on ``inputs`` spans the variant's ``seeded_range``; a
    variant without one keeps what its seed makes.

    Raises CheckpointError when the network's output does not vary over the frame.
    """
    wanted = variant.seeded_range
    if wanted is None:
        return RandomWeights(seed=seed, scale=1.0, shift=0.0)
    convolution = network.get_submodule(variant.last_convolution)
    seen: list[Tensor] = []
    hook = convolution.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        variant.exportable(network, order)(*inputs)
    finally:
        hook.remove()
    # numpy's rule for percentiles; torch.quantile refuses tensors of more than 16 M elements.
    values = seen[0].flatten().double().sort().values
    low, high = (float(values[round(share * (len(values) - 1))]) for share in (0.01, 0.99))
    if not high > low:
        raise CheckpointError(f"seeded weights {seed} give a constant output on this frame; choose another seed")
    scale = (wanted.high - wanted.low) / (high - low)
    weights = RandomWeights(seed=seed, scale=scale, shift=wanted.low - scale * low)
    _rescale(convolution, weights)
    return weights


def rebuild(variant: Variant, weights: RandomWeights) -> nn.Module:
    """The network that ``seeded_network`` and ``calibrate_range`` made, from their record."""
    network = seeded_network(variant, weights.seed)
    if variant.seeded_range is not None:
        _rescale(network.get_submodule(variant.last_convolution), weights)
    return network


@torch.no_grad()
def _rescale(convolution: nn.Module, weights: RandomWeights) -> None:
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    convolution.weight.mul_(weights.scale)
    convolution.bias.mul_(weights.scale).add_(weights.shift)


def state_dict_sha256(network: nn.Module) -> str:
    """sha256 over names, shapes and bytes of the state dict: the identity of weights that came from no file."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(memoryview(tensor.contiguous().numpy()).cast("B"))
    return digest.hexdigest()
