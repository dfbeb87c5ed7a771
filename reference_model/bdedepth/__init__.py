"""BDEdepth: the family's variants, how to build them, and what their tensors mean."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from cdm_export.reference_model.bdedepth.config import CONFIGS, MAX_DEPTH, MIN_DEPTH, MULTIPLE
from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.policies import PrecisionPolicy, QuantizationPolicy
from cdm_export.reference_model.sections import Section
from cdm_export.reference_model.variant import ImageStatistics, SeededRange, Variant
from cdm_export.runtimes.contract import DEFAULT_FAR, ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.graph_precision import Island, IslandKind

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdm_export.reference_model.rewriting import Rule

NETWORK_SIZE = Size(640, 192)
"""Of the images that the KITTI weights were trained with; those of Cityscapes with 512x192."""

_MILLIONS = {"resnet18": 18.475, "hrnet18": 10.198}
_TITLES = {"resnet18": "ResNet18", "hrnet18": "HRNet-W18"}
_LICENSE = (
    "without a license of their own; the code is under MIT, with files under the Monodepth2 license: not for "
    "commercial use"
)
_SIZING = Sizing(rule="fixed", multiple=MULTIPLE)
_LAST = "depth.decoder.6"
_IMAGE = ImageStatistics((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
"""Two convolutions read the image, both with a border of zeros: it can be folded into neither."""
_SECTIONS = (
    Section("encoder", ("encoder.encoder.layer*.*", "encoder.encoder.stage*.*.branches.*")),
    Section("decoder", ("depth.decoder.*",)),
)
_PRECISION = PrecisionPolicy(
    islands=tuple(
        Island(
            kind=IslandKind.DECLARED,
            module=module,
            reason="far is near 0: depth follows from 0.01 + 9.99 of it, and half's last bits there are meters",
            output_dtype="fp32",
        )
        for module in (_LAST, "depth.sigmoid")
    )
)
_QUANTIZATION = QuantizationPolicy(never=(_LAST,))


def _build(encoder: str) -> "nn.Module":
    from cdm_export.reference_model.bdedepth.network import BdeDepth

    return BdeDepth(CONFIGS[encoder])


def _seed(network: "nn.Module", generator: "torch.Generator") -> None:
    from cdm_export.reference_model.bdedepth.seed import seed

    seed(network, generator)


def _rewrites() -> "dict[str, Rule]":
    from cdm_export.reference_model.backbones.rewrites import batch_norm

    return {"batch_norm": batch_norm}


def _fits(encoder: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The stem without stride, and a decoder whose coarsest row reads that encoder's last map."""
    stem, kernel = ("conv1", 7) if encoder == "resnet18" else ("context_conv", 3)
    config = CONFIGS[encoder]
    return (
        shapes.get(f"encoder.{stem}.weight") == (64, 3, kernel, kernel)
        and shapes.get("depth.decoder.31.1.weight") == (config.grid[-1], config.features[-1], 3, 3)
        and shapes.get(f"{_LAST}.conv.weight") == (1, 16, 3, 3)
    )


def _network_size(input_size: int) -> Size:
    """Height as asked for, width by the shape of the published size: 192 is 640x192."""
    width = MULTIPLE * round(input_size * NETWORK_SIZE.width / (NETWORK_SIZE.height * MULTIPLE))
    return _checked(Size(width, input_size))


def _checked(size: Size) -> Size:
    if any(side % MULTIPLE or side < 2 * MULTIPLE for side in size):
        raise InputError(
            f"BDEdepth takes images whose sides are multiples of {MULTIPLE}, from {2 * MULTIPLE} pixels: got {size}",
            "The published weights were trained with 640x192 (KITTI) and 512x192 (Cityscapes).",
        )
    return size


def _contract(
    model: str,
    camera: Size,
    input_size: int = NETWORK_SIZE.height,
    channel_order: ChannelOrder = "rgb",
    max_depth: float = 6.0,
    far: float | None = None,
    batch: int = 1,
    network: Size | None = None,
) -> ModelContract:
    """GraphInterface of an artifact made for ``camera``: see ``ModelContract`` for units and defaults.

    ``network``: size of the network's image where it is not of the published shape, 512x192 for example; the camera's
    image is stretched to it. Raises InputError for sides that are no multiples of 32.
    """
    network = _network_size(input_size) if network is None else _checked(network)
    plane = (network.height, network.width)
    return ModelContract(
        model=model,
        semantics=Semantics.RELATIVE_INVERSE_DEPTH,
        inputs=(
            TensorSpec(
                name="image",
                shape=(batch, 3, *plane),
                unit="RGB, 0..1",
                source="rgb",
                processing=Processing(resize="lanczos", normalization="unit"),
            ),
        ),
        outputs=(
            TensorSpec(
                name="disparity",
                shape=(batch, 1, *plane),
                unit=(
                    "no unit, 0..1, larger is nearer: depth, up to the scale of the scene, is "
                    f"1 / ({1 / MAX_DEPTH:g} + {1 / MIN_DEPTH - 1 / MAX_DEPTH:g} of it), {MIN_DEPTH:g}..{MAX_DEPTH:g}"
                ),
            ),
        ),
        camera=camera,
        network=network,
        content=network,
        sizing=_SIZING,
        input_size=min(network),
        channel_order=channel_order,
        output_resize="bilinear",
        max_depth=max_depth,
        far=far if far is not None else DEFAULT_FAR,
    )


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _variant(encoder: str) -> Variant:
    files = tuple(f"{data}_{encoder}_{size}" for data, size in (("kitti", "640x192"), ("cs", "512x192")))
    return Variant(
        name=f"bdedepth-{encoder}",
        family="bdedepth",
        summary=f"BDEdepth, {_TITLES[encoder]} encoder: RGB -> disparity in 0..1, depth up to scale",
        million_parameters=_MILLIONS[encoder],
        weights=f"{files[0]}.pth, {files[1]}.pth ({_LICENSE})",
        license=f"published {_LICENSE}",
        default_input_size=NETWORK_SIZE.height,
        build=partial(_build, encoder),
        fits=partial(_fits, encoder),
        contract=_contract,
        channel_orders=("rgb",),
        published_files=files,
        unused_parameters=("encoder.encoder.fc.",),
        rewrites=_rewrites,
        last_convolution=f"{_LAST}.conv",
        seeded_range=SeededRange(_logit(0.01), _logit(0.2), "a disparity of 0.01 to 0.2"),
        seed=_seed,
        image=_IMAGE,
        precision=_PRECISION,
        quantization=_QUANTIZATION,
        sections=_SECTIONS,
    )


VARIANTS = tuple(_variant(encoder) for encoder in CONFIGS)
"""What BDEdepth comes as: one decoder behind two encoders. KITTI's and Cityscapes' weights have the same tensors."""
