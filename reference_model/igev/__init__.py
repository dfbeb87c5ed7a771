"""IGEV-Stereo: its variant, how to build it, and what its tensors mean."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cdm_export.reference_model.backbones.recurrent_policies import ALL_PAIRS, fp32_island, recurrent_precision
from cdm_export.reference_model.igev.config import FACTOR, ITERATIONS
from cdm_export.reference_model.policies import QuantizationPolicy
from cdm_export.reference_model.sections import Section
from cdm_export.reference_model.stereo_contract import SIGNED_IMAGE, stereo_contract
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import Size, Sizing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

_NAME = "igev-stereo"
_STEPS = "update_block.disp_head.conv2"
_SIZING = Sizing(rule="camera", multiple=32, padding="center")
_CORRELATION = (
    *ALL_PAIRS,
    fp32_island("group_volume", "sums of many products", wide=False),
    fp32_island("regression", "a mean over all disparities, which has fractions that half has not", wide=True),
)


def _build(iterations: int) -> "nn.Module":
    from cdm_export.reference_model.igev.network import Igev

    return Igev(iterations)


def _rewrites() -> "Mapping[str, Rule]":
    from cdm_export.reference_model.igev.rewrites import RULES

    return RULES


def _seed(network: "nn.Module", generator: "torch.Generator") -> None:
    from cdm_export.reference_model.backbones.seeded_stereo import seed_layers

    seed_layers(network, generator, _STEPS, mean=0.1 / FACTOR, spread=0.15 / FACTOR)


def _fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """What the look-up hands on, three GRUs, and MobileNetV2's features."""
    return (
        shapes.get("update_block.encoder.convc1.weight") == (64, 162, 1, 1)
        and "context_zqr_convs.2.weight" in shapes
        and shapes.get("feature.deconv8_4.conv1.conv.weight") == (64, 24, 4, 4)
    )


def _variant(iterations: int) -> Variant:
    return Variant(
        name=_NAME,
        family="igev",
        summary=f"IGEV-Stereo, {iterations} iterations: a rectified pair -> disparity",
        million_parameters=12.598,
        weights="sceneflow, kitti12, kitti15, middlebury, eth3d, in the authors' cloud folder",
        license="not known here: see the authors' repository",
        build=partial(_build, iterations),
        fits=_fits,
        contract=partial(stereo_contract, _SIZING, Size(64, 64)),
        default_input_size=32,
        images=2,
        image=SIGNED_IMAGE,
        iterations=iterations,
        at_iterations=_at_iterations,
        rewrites=_rewrites,
        precision=recurrent_precision(_STEPS, _CORRELATION),
        quantization=QuantizationPolicy(
            never=("feature.conv_stem", "stem_2", "cnet.conv1", "classifier"), parts=("update_block",)
        ),
        unused_parameters=("spx.", "spx_2.", "spx_4.", "cost_agg.conv1_up.bn."),
        sections=(
            Section("features", ("feature.*", "stem_2.*", "stem_4.*", "conv.conv", "desc")),
            Section("geometry", ("group_volume", "corr_stem.*", "corr_feature_att.*", "cost_agg.*", "classifier")),
            Section("context", ("cnet.conv1", "cnet.layer*", "cnet.outputs*", "context_zqr_convs.*")),
            Section("iterations", ("volume", "lookup", "update_block.*", "spx_2_gru.*", "spx_gru.*", "upsample")),
        ),
        seed=_seed,
    )


def _at_iterations(iterations: int) -> Variant:
    return replace(_variant(iterations), name=f"{_NAME}@{iterations}it", at_iterations=None)


VARIANTS = (_variant(ITERATIONS),)
