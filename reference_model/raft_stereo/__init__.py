"""RAFT-Stereo: the family's variants, how to build them, and what their tensors mean."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cdm_export.reference_model.backbones.recurrent_policies import ALL_PAIRS, recurrent_precision
from cdm_export.reference_model.policies import QuantizationPolicy
from cdm_export.reference_model.raft_stereo.config import CONFIGS, HIDDEN, LEVELS, RaftStereoConfig
from cdm_export.reference_model.sections import Section
from cdm_export.reference_model.stereo_contract import SIGNED_IMAGE, stereo_contract
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import Size, Sizing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

_STEPS = "update_block.flow_head.conv2"
_SIZING = Sizing(rule="camera", multiple=32, padding="center")


def _build(config: RaftStereoConfig, iterations: int) -> "nn.Module":
    from cdm_export.reference_model.raft_stereo.network import RaftStereo

    return RaftStereo(config, iterations)


def _rewrites() -> "Mapping[str, Rule]":
    from cdm_export.reference_model.raft_stereo.rewrites import RULES

    return RULES


def _seed(config: RaftStereoConfig, network: "nn.Module", generator: "torch.Generator") -> None:
    from cdm_export.reference_model.backbones.seeded_stereo import seed_layers

    factor = 2**config.downsample
    seed_layers(network, generator, _STEPS, mean=-0.25 / factor, spread=0.2 / factor)


def _fits(config: RaftStereoConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The factor of the upsampling, the GRUs, and whose features are correlated; instance norms have no weights."""
    return (
        shapes.get("update_block.mask.2.weight") == (9 * 4**config.downsample, 256, 1, 1)
        and shapes.get("update_block.gru08.convz.weight", (0,))[0] == HIDDEN
        and (f"context_zqr_convs.{config.layers - 1}.weight" in shapes)
        and (f"context_zqr_convs.{config.layers}.weight" not in shapes)
        and ("conv2.1.weight" in shapes) is config.shared_backbone
        and ("cnet.norm1.weight" in shapes) is (config.context_norm == "batch")
    )


def _variant(config: RaftStereoConfig, iterations: int) -> Variant:
    return Variant(
        name=config.name,
        family="raft-stereo",
        summary=f"{config.title}, {iterations} iterations: a rectified pair -> disparity",
        million_parameters=config.million_parameters,
        weights=f"{config.published} (MIT)",
        license="MIT, as published with the code",
        build=partial(_build, config, iterations),
        fits=partial(_fits, config),
        contract=partial(stereo_contract, _SIZING, Size(2 ** (config.downsample + LEVELS), 1)),
        default_input_size=32,
        images=2,
        image=SIGNED_IMAGE,
        output_scale=-1.0,
        iterations=iterations,
        at_iterations=partial(_at_iterations, config),
        rewrites=_rewrites,
        precision=recurrent_precision(_STEPS, ALL_PAIRS),
        quantization=QuantizationPolicy(never=("cnet.conv1", "fnet.conv1"), parts=("update_block",)),
        unused_parameters=() if config.layers == 3 else ("cnet.layer5.", "cnet.outputs32.", "update_block.gru32."),
        sections=(
            Section("features", ("fnet.conv1", "fnet.layer*", "fnet.conv2", "conv2.0", "conv2.1")),
            Section("context", ("cnet.conv1", "cnet.layer*", "cnet.outputs*", "context_zqr_convs.*")),
            Section("iterations", ("volume", "lookup", "update_block.*", "upsample")),
        ),
        seed=partial(_seed, config),
    )


def _at_iterations(config: RaftStereoConfig, iterations: int) -> Variant:
    return replace(_variant(config, iterations), name=f"{config.name}@{iterations}it", at_iterations=None)


VARIANTS = tuple(_variant(config, config.iterations) for config in CONFIGS)
