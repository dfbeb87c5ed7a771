"""MiDaS v3.1: the family's variants with BEiT and SwinV2 encoders, how to build them, and what their tensors mean."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.midas.config import CONFIGS, TILE, BeitConfig, MidasConfig, Swin2Config, window_side
from cdm_export.reference_model.policies import PrecisionPolicy, QuantizationPolicy, ResidualStream, Smoothing
from cdm_export.reference_model.sections import Section
from cdm_export.reference_model.variant import ImageStatistics, SeededRange, Variant
from cdm_export.runtimes.contract import ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.graph_precision import Island, IslandKind
from cdm_export.runtimes.processing.size import network_size

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

MUGGLED = "muggled"
"""Processing as Muggled DPT does it."""
_IMAGE = ImageStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "pretrained.model.patch_embed.proj")
_LAST = "scratch.output_conv.4"
_ISLAND = Island(
    kind=IslandKind.DECLARED,
    module=_LAST,
    reason="the last sums decide the eleventh bit of the output, which reaches thousands",
    output_dtype="fp32",
)
_DECODER = Section("decoder", ("scratch.layer*_rn", "scratch.refinenet*", "scratch.output_conv.0"))


def _build(config: MidasConfig) -> "nn.Module":
    from cdm_export.reference_model.midas.network import Midas

    return Midas(config)


def _rewrites(config: MidasConfig) -> "Mapping[str, Rule]":
    from cdm_export.reference_model.midas.rewrites import BEIT, SWIN2

    return BEIT if isinstance(config.encoder, BeitConfig) else SWIN2


def _seed(network: "nn.Module", generator: "torch.Generator") -> None:
    from cdm_export.reference_model.midas.seed import seed

    seed(network, generator)


def _fits(config: MidasConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    encoder = config.encoder
    model = "pretrained.model"
    if isinstance(encoder, BeitConfig):
        table = ((2 * encoder.grid - 1) ** 2 + 3, encoder.heads)
        last = f"{model}.blocks.{encoder.depth - 1}.attn.relative_position_bias_table"
        return (
            shapes.get(f"{model}.cls_token", ())[-1:] == (encoder.width,)
            and shapes.get(last) == table
            and shapes.get("scratch.layer1_rn.weight", ())[1:2] == encoder.levels[:1]
        )
    mask = shapes.get(f"{model}.layers.0.blocks.1.attn_mask")
    last = f"{model}.layers.2.blocks.{encoder.depths[2] - 1}.attn.q_bias"
    return (
        shapes.get(f"{model}.patch_embed.norm.weight") == (encoder.width,)
        and shapes.get(last) == (encoder.levels[2],)
        and shapes.get("scratch.layer1_rn.weight", ())[1:2] == (encoder.width,)
        and (mask is None or mask[-1] == encoder.window**2)
    )


def _sizing(config: MidasConfig, preprocessing: str, aspect: bool) -> Sizing:
    if preprocessing == MUGGLED:
        return Sizing(rule="longest_side" if aspect else "fixed", multiple=TILE)
    return Sizing(rule="minimal" if isinstance(config.encoder, BeitConfig) else "fixed", multiple=TILE)


def _check_size(config: MidasConfig, network: Size, preprocessing: str) -> None:
    """Raises InputError for a size that the encoder has no windows for, or was not trained at."""
    if isinstance(config.encoder, BeitConfig):
        return
    if preprocessing != MUGGLED and network != (config.input_size, config.input_size):
        raise InputError(
            f"{config.name} runs at {config.input_size}x{config.input_size} as published, got {network}",
            f"Leave --input-size out, or let windows follow the size: --preprocessing {MUGGLED}.",
        )
    for side in network:
        for stage in range(4):
            try:
                window_side(side // 4 >> stage, config.encoder.window)
            except ValueError as error:
                raise InputError(
                    f"{config.name} cannot run at {network}: {error}", "Give another --input-size, a multiple of 32."
                ) from error


def _contract(config: MidasConfig) -> Callable[..., ModelContract]:
    def contract(
        model: str,
        camera: Size,
        input_size: int = config.input_size,
        channel_order: ChannelOrder = "rgb",
        max_depth: float = 6.0,
        far: float | None = None,
        preprocessing: str = "midas",
        aspect: bool = False,
    ) -> ModelContract:
        """Graph interface of an artifact made for ``camera``: see ``ModelContract`` for units and defaults."""
        sizing = _sizing(config, preprocessing, aspect)
        network, content = network_size(camera, input_size, sizing)
        _check_size(config, network, preprocessing)
        muggled = preprocessing == MUGGLED
        plane = (network.height, network.width)
        return ModelContract(
            model=model,
            semantics=Semantics.RELATIVE_INVERSE_DEPTH,
            inputs=(
                TensorSpec(
                    name="image",
                    shape=(1, 3, *plane),
                    unit="RGB, 0..1",
                    source="rgb",
                    processing=Processing(
                        resize="bilinear" if muggled else "cubic", antialias=muggled, normalization="unit"
                    ),
                ),
            ),
            outputs=(
                TensorSpec(
                    name="relative_inverse_depth",
                    shape=(1, 1, *plane),
                    unit="no unit, >= 0, larger is nearer; scale and shift differ from image to image",
                ),
            ),
            camera=camera,
            network=network,
            content=content,
            sizing=sizing,
            input_size=input_size,
            channel_order=channel_order,
            output_resize="bilinear" if muggled else "bicubic",
            max_depth=max_depth,
        )

    return contract


def _beit_precision() -> PrecisionPolicy:
    return PrecisionPolicy(
        islands=(_ISLAND,),
        streams=(ResidualStream("pretrained.model.blocks.*", "pretrained.model", ("attn", "mlp")),),
        bf16=(
            ("pretrained.model.patch_embed", "low"),
            *((f"pretrained.act_postprocess{level}.*", "fp32") for level in range(1, 5)),
            ("scratch", "fp32"),
        ),
    )


def _swin2_precision(encoder: Swin2Config) -> PrecisionPolicy:
    blocks = "pretrained.model.layers.*.blocks.*"
    normalizations = tuple(
        Island(
            kind=IslandKind.DECLARED,
            module=f"pretrained.model.layers.{stage}.blocks.{block}.attn.core.normalize_{side}",
            reason="the length of a vector in half loses bits, and is 0 where its floor of 1e-12 is",
            output_dtype="low",
        )
        for stage, depth in enumerate(encoder.depths)
        for block in range(depth)
        for side in ("query", "key")
    )
    return PrecisionPolicy(
        islands=(_ISLAND, *normalizations),
        streams=(ResidualStream(blocks, "pretrained.model.patch_embed.norm", ("norm1", "norm2")),),
        bf16=(
            ("pretrained.model.patch_embed", "low"),
            ("pretrained.model.layers.*.downsample", "fp32"),
            ("scratch", "fp32"),
        ),
    )


def _variant(config: MidasConfig) -> Variant:
    encoder = config.encoder
    beit = isinstance(encoder, BeitConfig)
    blocks = "pretrained.model.blocks.*" if beit else "pretrained.model.layers.*.blocks.*"
    classifier = ("pretrained.model.fc_norm.",) if beit else ("pretrained.model.norm.",)
    reassembly = (Section("reassembly", ("pretrained.act_postprocess*.*",)),) if beit else ()
    return Variant(
        name=config.name,
        family="midas",
        summary=f"{config.title}: RGB -> relative inverse depth",
        million_parameters=config.million_parameters,
        weights=f"{config.published_file}.pt (MIT)",
        license="MIT, as published with the code",
        build=partial(_build, config),
        fits=partial(_fits, config),
        contract=_contract(config),
        default_input_size=config.input_size,
        preprocessings=("midas", MUGGLED),
        image=_IMAGE,
        unused_parameters=(*classifier, "pretrained.model.head.", "scratch.refinenet4.resConfUnit1."),
        recomputed=("attn.relative_position_index", "attn_mask"),
        rewrites=partial(_rewrites, config),
        precision=_beit_precision() if isinstance(encoder, BeitConfig) else _swin2_precision(encoder),
        quantization=QuantizationPolicy(
            never=("pretrained.model.patch_embed",),
            parts=(blocks,),
            blocks="*.blocks.*",
            smoothings=(
                Smoothing("attn.proj", "attn.qkv"),
                *((Smoothing("attn.qkv", "norm1"), Smoothing("mlp.fc1", "norm2")) if beit else ()),
            ),
        ),
        sections=(
            Section("encoder", ("pretrained.model.patch_embed", blocks, "pretrained.model.layers.*.downsample")),
            *reassembly,
            _DECODER,
        ),
        last_convolution=_LAST,
        seeded_range=SeededRange(200.0, 4000.0, "a relative inverse depth of 200 to 4000"),
        seed=_seed,
    )


VARIANTS = tuple(_variant(config) for config in CONFIGS)
