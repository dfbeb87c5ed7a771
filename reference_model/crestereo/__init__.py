"""CREStereo: its variants, how to build them, and what their tensors mean."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cdm_export.reference_model.backbones.recurrent_policies import fp32_island, recurrent_precision
from cdm_export.reference_model.crestereo.config import CRESTEREO, FEATURES, CreStereoConfig
from cdm_export.reference_model.policies import QuantizationPolicy
from cdm_export.reference_model.sections import Section
from cdm_export.reference_model.stereo_contract import SIGNED_IMAGE, stereo_contract
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import Size, Sizing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

_STEPS = "update_block.flow_head.conv2"
_MULTIPLE = 32
"""Pixels; the coarsest grid is so much smaller, and upstream's images go in at half their size too."""
_SEARCHES = (
    fp32_island("learned_search", "places have fractions that half has not", wide=False),
    fp32_island("local_search", "places have fractions that half has not", wide=False),
    fp32_island("self_att_fn.layers.0", "sums over all tokens, which divide", wide=False),
    fp32_island("cross_att_fn.layers.0", "sums over all tokens, which divide", wide=False),
)


def _build(config: CreStereoConfig, iterations: int) -> "nn.Module":
    from cdm_export.reference_model.crestereo.network import CreStereo

    return CreStereo(config, iterations)


def _rewrites() -> "Mapping[str, Rule]":
    from cdm_export.reference_model.crestereo.rewrites import RULES

    return RULES


def _seed(network: "nn.Module", generator: "torch.Generator") -> None:
    from cdm_export.reference_model.backbones.seeded_stereo import seed_layers

    seed_layers(network, generator, _STEPS, mean=-0.06, spread=0.01)


def _fits(config: CreStereoConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The factor of the upsampling, and learned offsets."""
    return (
        shapes.get("update_block.mask.2.weight") == (9 * config.factor**2, FEATURES, 1, 1)
        and shapes.get("conv_offset_16.weight") == (18, FEATURES, 3, 3)
        and shapes.get("update_block.flow_head.conv1.weight", (0,))[0] == config.head
    )


def variant(config: CreStereoConfig, iterations: int) -> Variant:
    """CREStereo with this number of updates of the finest grid."""
    upstream = config is CRESTEREO
    sizing = (
        Sizing(rule="camera", multiple=_MULTIPLE, padding="center")
        if upstream
        else Sizing(rule="lower_bound", multiple=_MULTIPLE)
    )
    title = "CREStereo" if upstream else "nndepth's CREStereo"
    return Variant(
        name=config.name,
        family="crestereo" if upstream else "nndepth",
        summary=f"{title}, {iterations} iterations: a rectified pair -> disparity",
        million_parameters=config.million_parameters,
        weights="crestereo_eth3d, converted to PyTorch (Apache-2.0, as its code)" if upstream else "none published",
        license="published with Apache-2.0 code; the converter to PyTorch has no license file" if upstream else "",
        build=partial(_build, config, iterations),
        fits=partial(_fits, config),
        contract=partial(stereo_contract, sizing, Size(64, 64)),
        default_input_size=_MULTIPLE if upstream else 480,
        channel_orders=("bgr", "rgb") if upstream else ("rgb",),
        images=2,
        image=SIGNED_IMAGE,
        output_scale=-float(config.sign),
        iterations=iterations,
        at_iterations=partial(_at_iterations, config),
        rewrites=_rewrites,
        precision=recurrent_precision(_STEPS, _SEARCHES),
        quantization=QuantizationPolicy(never=("fnet.conv1", "self_att_fn", "cross_att_fn"), parts=("update_block",)),
        sections=(
            Section("features", ("fnet.conv1", "fnet.layer*", "fnet.conv2", "self_att_fn.layers.0", "conv_offset_*")),
            Section("iterations", ("learned_search", "local_search", "update_block.*", "upsample")),
        ),
        seed=_seed,
    )


def _at_iterations(config: CreStereoConfig, iterations: int) -> Variant:
    return replace(variant(config, iterations), name=f"{config.name}@{iterations}it", at_iterations=None)


VARIANTS = (variant(CRESTEREO, CRESTEREO.iterations),)
