"""What families on DINOv2 and DPT say of their networks for reduced precision."""

from collections.abc import Sequence

from cdm_export.reference_model.policies import PrecisionPolicy, QuantizationPolicy, ResidualStream, Smoothing
from cdm_export.reference_model.variant import IMAGENET, ImageStatistics
from cdm_export.runtimes.graph_precision import Island

DINO_IMAGE = ImageStatistics(IMAGENET.mean, IMAGENET.std, "pretrained.patch_embed.proj")
"""ImageNet's statistics, before the encoder of the image."""


def dino_precision(
    encoders: Sequence[str],
    decoder: str,
    islands: tuple[Island, ...],
    *,
    sums: tuple[tuple[str, str], ...] = (),
    fusions: Sequence[str] = (),
) -> PrecisionPolicy:
    """BF16 are the products inside the encoders' blocks, by far the most; patch embeddings, residual streams, whatever
    fuses tokens (``fusions``) and the decoder stay FP32 in it.
    """
    return PrecisionPolicy(
        islands=islands,
        sums=sums,
        streams=tuple(ResidualStream(f"{path}.blocks.*", path, ("ls1", "ls2")) for path in encoders),
        bf16=(
            *((f"{path}.patch_embed", "low") for path in encoders),
            *((path, "fp32") for path in fusions),
            (decoder, "fp32"),
        ),
    )


def dino_quantization(encoders: Sequence[str], *, fusions: Sequence[str] = ()) -> QuantizationPolicy:
    """The first products see pixels and readings: little to gain, much to lose. A block stands or falls as a whole."""
    return QuantizationPolicy(
        never=tuple(f"{path}.patch_embed" for path in encoders),
        parts=(*fusions, *(f"{path}.blocks.*" for path in encoders)),
        blocks="*.blocks.*",
        smoothings=(
            Smoothing("attn.proj", "attn.qkv"),  # first, because it moves rows of the one before it
            Smoothing("attn.qkv", "norm1"),
            Smoothing("mlp.w12", "norm2"),
            Smoothing("mlp.fc1", "norm2"),
        ),
    )
