"""nndepth: the family's variants, how to build them, and what their tensors mean."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cdm_export.reference_model import crestereo
from cdm_export.reference_model.backbones.recurrent_policies import ALL_PAIRS, recurrent_precision
from cdm_export.reference_model.crestereo.config import NNDEPTH as NNDEPTH_CRESTEREO
from cdm_export.reference_model.nndepth.config import (
    CONFIGS,
    FACTOR,
    FEATURES,
    ITERATIONS,
    LEVELS,
    NndepthRaftConfig,
)
from cdm_export.reference_model.policies import QuantizationPolicy
from cdm_export.reference_model.sections import Section
from cdm_export.reference_model.stereo_contract import SIGNED_IMAGE, stereo_contract
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import Size, Sizing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

_HIDDEN = 128
"""Channels of the GRU's state."""
_STEPS = "update_block.flow_head.conv2"
_SIZING = Sizing(rule="lower_bound", multiple=FACTOR)


def _build(config: NndepthRaftConfig, iterations: int) -> "nn.Module":
    from cdm_export.reference_model.nndepth.raft import NndepthRaft

    return NndepthRaft(config, iterations)


def _rewrites() -> "Mapping[str, Rule]":
    from cdm_export.reference_model.nndepth.rewrites import RULES

    return RULES


def _seed(network: "nn.Module", generator: "torch.Generator") -> None:
    from cdm_export.reference_model.backbones.seeded_stereo import seed_layers

    seed_layers(network, generator, _STEPS, mean=-0.25 / FACTOR, spread=0.2 / FACTOR)


def _fits(config: NndepthRaftConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The width of the context, and a GRU along rows and columns."""
    return (
        shapes.get("cnet_proj.0.weight") == (config.context + _HIDDEN, FEATURES, 3, 3)
        and shapes.get("update_block.gru.convz1.weight") == (_HIDDEN, 2 * _HIDDEN + config.context, 1, 5)
        and shapes.get("update_block.encoder.convf1.weight") == (128, 1, 7, 7)
    )


def _variant(config: NndepthRaftConfig, iterations: int) -> Variant:
    return Variant(
        name=config.name,
        family="nndepth",
        summary=f"nndepth's RAFT, context {config.context}, {iterations} iterations: a rectified pair -> disparity",
        million_parameters=config.million_parameters,
        weights="by the authors of nndepth, in a cloud folder (MIT code, no note of their own)",
        license="published with MIT code, without a note of their own",
        build=partial(_build, config, iterations),
        fits=partial(_fits, config),
        contract=partial(stereo_contract, _SIZING, Size(FACTOR * 2**LEVELS, 1)),
        default_input_size=480,
        images=2,
        image=SIGNED_IMAGE,
        output_scale=-1.0,
        iterations=iterations,
        at_iterations=partial(_at_iterations, config),
        rewrites=_rewrites,
        precision=recurrent_precision(_STEPS, ALL_PAIRS),
        quantization=QuantizationPolicy(never=("fnet.conv1",), parts=("update_block",)),
        sections=(
            Section("features", ("fnet.conv1", "fnet.layer*", "fnet.conv2", "cnet_proj.0")),
            Section("iterations", ("volume", "lookup", "update_block.*", "upsample")),
        ),
        seed=_seed,
    )


def _at_iterations(config: NndepthRaftConfig, iterations: int) -> Variant:
    return replace(_variant(config, iterations), name=f"{config.name}@{iterations}it", at_iterations=None)


VARIANTS = (
    *(_variant(config, ITERATIONS) for config in CONFIGS),
    crestereo.variant(NNDEPTH_CRESTEREO, NNDEPTH_CRESTEREO.iterations),
)
