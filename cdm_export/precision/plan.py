"""Decide from measured ranges what has to stay FP32.

FP16 ends at 65504. A module whose results stay under a quarter of that is half; what exceeds it becomes the smallest
FP32 island that covers it: an attention core, one linear layer, a whole branch, the residual stream of a block. BF16
has FP32's range but 8 bits: there only the products inside the encoders' blocks are BF16, by far the most; patch
embeddings, residual streams, the fusion of the tokens and the decoder stay FP32.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from cdm_export.reference_model.backbones.dpt import DptHead
from cdm_export.reference_model.backbones.vit import Block, DinoV2, PatchEmbed
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.graph_precision import Island, IslandKind, LowPrecision, PrecisionPlan, within
from cdm_export.transforms.attention import AttentionAround
from cdm_export.transforms.two_token_attention import ClosedFormPairFusion, PairCore

LARGEST_FP16 = 65504.0
MARGIN = 4.0
"""Frames that were not scanned may be this much larger than those that were."""
_LIMIT = LARGEST_FP16 / MARGIN
_EIGHT_BITS = "BF16 has 8 bits; these values meet the gate with more"


def plan(
    network: nn.Module, max_abs: Mapping[str, float], declared: Sequence[Island], precision: LowPrecision
) -> PrecisionPlan:
    """Precision plan of a specialized network (without its interface).

    ``max_abs``: see ``RangeScan``; only FP16 needs it. ``declared``: the variant's own islands. Raises ParityError when
    a range that no island can cover is too large for FP16.
    """
    islands = list(declared)
    for path, module in network.named_modules():
        if isinstance(module, nn.LayerNorm):
            islands.append(
                Island(kind=IslandKind.LAYER_NORM, module=path, reason="LayerNorm statistics", output_dtype="low")
            )
        elif isinstance(module, PairCore):
            why = "sums of the two-token attention, elementwise"
            islands.append(Island(kind=IslandKind.ELEMENTWISE_SUMS, module=path, reason=why, output_dtype="low"))
    residuals: dict[str, str] = {}
    if precision == "fp16":
        measured: list[Island] = []
        for path, encoder in network.named_modules():
            if isinstance(encoder, DinoV2):
                _plan_encoder(path, encoder, max_abs, measured, residuals)
        # The other islands are not there for range: what they hand on is rounded to half like anything else.
        beyond = {
            path: peak
            for path, peak in max_abs.items()
            if not peak <= _LIMIT
            and path not in residuals
            and not any(within(path, island.module) for island in measured)
        }
        islands += measured
        if beyond:
            path = next((path for path in beyond if path), "")  # the network's own sums come after its modules
            raise ParityError(
                f"{path or 'the network'} reaches {beyond[path]:.3g} on these frames, more than {_LIMIT:.0f} (the "
                f"largest FP16 number over a margin of {MARGIN:g}): it cannot be typed as FP16",
                "Export without it: --precision fp32",
            )
    else:
        covered = {island.module for island in islands}
        for path, module in network.named_modules():
            if isinstance(module, PatchEmbed) and path not in covered:
                islands.append(Island(kind=IslandKind.RESOLUTION, module=path, reason=_EIGHT_BITS, output_dtype="low"))
            elif isinstance(module, ClosedFormPairFusion | DptHead):
                islands.append(Island(kind=IslandKind.RESOLUTION, module=path, reason=_EIGHT_BITS, output_dtype="fp32"))
            if isinstance(module, Block):
                residuals[path] = _EIGHT_BITS
    islands.sort(key=lambda island: island.reason)
    inputs = {
        f"{path}.patch_embed": "the image, 0..1"
        for path, encoder in network.named_modules()
        if isinstance(encoder, DinoV2) and all(f"{path}.patch_embed" != island.module for island in islands)
    }
    return PrecisionPlan(
        precision=precision,
        islands=tuple(islands),
        residuals=residuals,
        inputs=inputs,
    )


def _plan_encoder(
    path: str, encoder: DinoV2, max_abs: Mapping[str, float], islands: list[Island], residuals: dict[str, str]
) -> None:
    entering = max_abs.get(path, 0.0)
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, Block)
        here = f"{path}.blocks.{index}"
        branches = {f"{here}.{name}": branch for name, branch in block.named_children()}
        added = [_plan_branch(name, branch, max_abs, islands) for name, branch in branches.items()]
        leaving = max_abs.get(here, 0.0)
        stream = (entering, *added, leaving)
        if not all(peak <= _LIMIT for peak in stream):  # NaN is too large
            residuals[here] = f"the residual stream reaches {max(stream):.3g}"
        entering = leaving


def _plan_branch(path: str, branch: nn.Module, max_abs: Mapping[str, float], islands: list[Island]) -> float:
    """Islands of one branch; returns the peak of what it adds to the residual stream."""
    children = {name: _peak(max_abs, f"{path}.{name}") for name, _ in branch.named_children()}
    if not children:
        return 0.0
    own = max_abs.get(path, 0.0)
    last = list(children)[-1]
    inner = {name: peak for name, peak in children.items() if name != last}
    if isinstance(branch, AttentionAround) and not inner.pop("core") <= _LIMIT:
        why = f"attention reaches {children['core']:.3g}"
        islands.append(Island(kind=IslandKind.RANGE, module=f"{path}.core", reason=why, output_dtype="low"))
    if not all(peak <= _LIMIT for peak in (own, *inner.values())):
        why = f"its inside reaches {max(own, *inner.values()):.3g}"
        output_dtype: Literal["fp32", "low"] = "low" if children[last] <= _LIMIT else "fp32"
        islands.append(Island(kind=IslandKind.RANGE, module=path, reason=why, output_dtype=output_dtype))
    elif not children[last] <= _LIMIT:
        why = f"it reaches {children[last]:.3g}"
        islands.append(Island(kind=IslandKind.RANGE, module=f"{path}.{last}", reason=why, output_dtype="fp32"))
    return children[last]


def _peak(max_abs: Mapping[str, float], path: str) -> float:
    """Of a module and everything in it."""
    inside = [peak for name, peak in max_abs.items() if within(name, path)]
    return float("nan") if any(peak != peak for peak in inside) else max(inside, default=0.0)
