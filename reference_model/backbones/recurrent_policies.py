"""What of a recurrent stereo network stays FP32 in reduced precision."""

from cdm_export.reference_model.policies import PrecisionPolicy
from cdm_export.runtimes.graph_precision import Island, IslandKind


def fp32_island(module: str, reason: str, *, wide: bool) -> Island:
    """``wide``: hands on FP32."""
    kind = IslandKind.DECLARED
    return Island(kind=kind, module=module, reason=reason, output_dtype="fp32" if wide else "low")


def recurrent_precision(steps: str, correlation: tuple[Island, ...]) -> PrecisionPolicy:
    """For networks with an ``upsample`` and an ``update_block.encoder``. ``steps``: the convolution that makes the step
    of an iteration; ``correlation``: what stays FP32 of it.
    """
    return PrecisionPolicy(
        islands=(
            *correlation,
            fp32_island(steps, "steps add up over the iterations", wide=True),
            fp32_island("upsample", "disparity has fractions that half has not", wide=True),
        ),
        inputs=(("update_block.encoder", "features of a flow that is kept in FP32 elsewhere"),),
    )


ALL_PAIRS = (
    fp32_island("volume", "sums of many products, which are read between columns", wide=True),
    fp32_island("lookup", "columns have fractions that half has not", wide=False),
)
"""Of networks that correlate whole rows."""
