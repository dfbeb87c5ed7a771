"""Decide from measured ranges what has to stay FP32.

FP16 ends at 65504. A module whose results stay under a quarter of that is half; what exceeds it becomes the smallest
FP32 island that covers it: a layer, or, in the blocks of a residual stream, an attention core, a branch, the stream
itself. A module whose own operations exceed it computes these in FP32 and its children as before.

BF16 has FP32's range but 8 bits. Where a family says which modules cannot do with them, the others are BF16; else only
layers are, and everything between them is FP32.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn

from cdm_export.precision.range_scan import entering
from cdm_export.reference_model.policies import PrecisionPolicy, ResidualStream, matching
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.graph_precision import Island, IslandKind, LowPrecision, PrecisionPlan, within

LARGEST_FP16 = 65504.0
MARGIN = 4.0
"""Frames that were not scanned may be this much larger than those that were."""
_LIMIT = LARGEST_FP16 / MARGIN
_EIGHT_BITS = "BF16 has 8 bits; these values meet the gate with more"
_NORMS = {
    nn.LayerNorm: "LayerNorm statistics",
    nn.GroupNorm: "GroupNorm statistics",
    nn.InstanceNorm1d: "InstanceNorm statistics",
    nn.InstanceNorm2d: "InstanceNorm statistics",
}


def plan(
    network: nn.Module, max_abs: Mapping[str, float], policy: PrecisionPolicy, precision: LowPrecision
) -> PrecisionPlan:
    """Precision plan of a specialized network (without its interface).

    ``max_abs``: see ``RangeScan``; only FP16 needs it. ``policy``: the variant's own. Raises ParityError when a range
    that no island can cover is too large for FP16.
    """
    made = _Plan(network, policy)
    if precision == "fp16":
        made.by_range(max_abs)
    else:
        made.by_resolution()
    return PrecisionPlan(
        precision=precision,
        islands=tuple(sorted(made.islands, key=lambda island: island.reason)),
        residuals=made.residuals,
        inputs=made.inputs,
        outputs=made.outputs,
    )


class _Plan:
    """A plan in the making."""

    def __init__(self, network: nn.Module, policy: PrecisionPolicy) -> None:
        self._modules = dict(network.named_modules())
        self._policy = policy
        self.islands: list[Island] = list(policy.islands)
        self.residuals: dict[str, str] = {}
        self.outputs: dict[str, str] = {}
        for path, module in self._modules.items():
            if (why := _NORMS.get(type(module))) is not None:
                self._add(IslandKind.LAYER_NORM, path, why, "low")
        self.inputs = {
            path: reason for pattern, reason in policy.inputs for path in matching(self._modules, (pattern,))
        }
        for pattern, reason in policy.sums:
            for path in matching(self._modules, (pattern,)):
                self._add(IslandKind.ELEMENTWISE_SUMS, path, reason, "low")

    def _add(self, kind: IslandKind, module: str, reason: str, output_dtype: Literal["fp32", "low"]) -> None:
        self.islands.append(Island(kind=kind, module=module, reason=reason, output_dtype=output_dtype))

    def _keep_stream(self, stream: ResidualStream, blocks: Mapping[str, str]) -> None:
        """FP32 sums in these blocks of a stream, each with its reason."""
        self.residuals |= blocks
        self.outputs |= {f"{block}.{name}": why for block, why in blocks.items() for name in stream.adds}

    def by_range(self, max_abs: Mapping[str, float]) -> None:
        """Islands of what is too large for FP16."""
        measured: list[Island] = []
        for stream in self._policy.streams:
            self._keep_stream(stream, _plan_stream(self._modules, stream, max_abs, measured))
        # The other islands are not there for range: what they hand on is rounded to half like anything else.
        blocks = [path for stream in self._policy.streams for path in matching(self._modules, (stream.blocks,))]
        for path, module in self._modules.items():
            if any(within(path, block) for block in blocks) or _covered(path, self.islands + measured):
                continue
            if is_layer(module):
                read, made = max_abs.get(entering(path), 0.0), max_abs.get(path, 0.0)
                if not (read <= _LIMIT and made <= _LIMIT):  # NaN is too large
                    why = f"it reaches {max(read, made):.3g}" if read == read else "it reaches nan"
                    kind: Literal["fp32", "low"] = "low" if made <= _LIMIT else "fp32"
                    measured.append(Island(kind=IslandKind.RANGE, module=path, reason=why, output_dtype=kind))
            elif not max_abs.get(path, 0.0) <= _LIMIT and list(module.children()):
                why = f"its own sums reach {max_abs[path]:.3g}"
                if path:
                    self.residuals[path] = why
                self.outputs |= dict.fromkeys(_called(self._modules, path), why)
        beyond = {
            path: peak
            for path, peak in max_abs.items()
            if not peak <= _LIMIT and path in self._modules and not self._computes_large(path, measured)
        }
        self.islands += measured
        if beyond:
            path = next((path for path in beyond if path), "")  # the network's own sums come after its modules
            raise ParityError(
                f"{path or 'the network'} reaches {beyond[path]:.3g} on these frames, more than {_LIMIT:.0f} (the "
                f"largest FP16 number over a margin of {MARGIN:g}): it cannot be typed as FP16",
                "Export without it: --precision fp32",
            )

    def _computes_large(self, path: str, measured: list[Island]) -> bool:
        """Whether a module whose results are too large for half computes them in FP32."""
        if path in self.residuals or _covered(path, measured):
            return True
        # Of a declared island that is more than a layer, what it hands on is not told from what it computes inside: the
        # half network that runs on the frames will.
        declared = [island for island in self.islands if within(path, island.module)]
        if any(island.module != path or list(self._modules[path].children()) for island in declared):
            return True
        children = _called(self._modules, path)
        if children:
            return all(child in self.outputs or _covered(child, measured) for child in children)
        # An activation computes in the type that it is given: FP32 where what feeds it hands that on.
        return not is_layer(self._modules[path]) and any(
            island.output_dtype == "fp32" for island in measured if _siblings(island.module, path)
        )

    def by_resolution(self) -> None:
        """Islands of what 8 bits are too few for."""
        covered = {island.module for island in self.islands}
        for pattern, output_dtype in self._policy.bf16:
            for path in matching(self._modules, (pattern,)):
                if path not in covered:
                    self._add(IslandKind.RESOLUTION, path, _EIGHT_BITS, output_dtype)
        for stream in self._policy.streams:
            self._keep_stream(stream, dict.fromkeys(matching(self._modules, (stream.blocks,)), _EIGHT_BITS))
        if not self._policy.bf16:
            norms = IslandKind.LAYER_NORM
            self.islands = [
                island.model_copy(update={"output_dtype": "fp32"}) if island.kind is norms else island
                for island in self.islands
            ]
            layers = (path for path, module in self._modules.items() if path and is_layer(module))
            self.outputs |= {path: _EIGHT_BITS for path in layers if not _covered(path, self.islands)}


def is_layer(module: nn.Module) -> bool:
    """Whether it has weights of its own that it multiplies with: it takes what it reads in their type."""
    if isinstance(module, nn.MultiheadAttention):
        return True  # reads its child's weights itself
    return next(module.parameters(recurse=False), None) is not None and not list(module.children())


def _covered(path: str, islands: list[Island]) -> bool:
    return any(within(path, island.module) for island in islands)


def _siblings(one: str, other: str) -> bool:
    return one.rpartition(".")[0] == other.rpartition(".")[0]


def _called(modules: Mapping[str, nn.Module], path: str) -> list[str]:
    """Modules that ``path`` calls itself: its children, and those in its lists, which are never called."""

    def below(here: str) -> Iterator[str]:
        for name, child in modules[here].named_children():
            inner = f"{here}.{name}" if here else name
            if isinstance(child, nn.ModuleList | nn.ModuleDict):
                yield from below(inner)
            elif inner in modules:  # a module in two places has one path
                yield inner

    return list(below(path))


def _plan_stream(
    modules: Mapping[str, nn.Module], stream: ResidualStream, max_abs: Mapping[str, float], islands: list[Island]
) -> dict[str, str]:
    """Blocks of a stream that is too large for half, and why; what is too large inside a block goes to ``islands``."""
    residuals: dict[str, str] = {}
    entering_block = max_abs.get(stream.source, 0.0)
    for here in matching(modules, (stream.blocks,)):
        branches = {f"{here}.{name}": branch for name, branch in modules[here].named_children()}
        added = [_plan_branch(name, branch, max_abs, islands) for name, branch in branches.items()]
        leaving = max_abs.get(here, 0.0)
        reached = (entering_block, *added, leaving)
        if not all(peak <= _LIMIT for peak in reached):  # NaN is too large
            residuals[here] = f"the residual stream reaches {max(reached):.3g}"
        entering_block = leaving
    return residuals


def _plan_branch(path: str, branch: nn.Module, max_abs: Mapping[str, float], islands: list[Island]) -> float:
    """Islands of one branch; returns the peak of what it adds to the residual stream."""
    children = {name: _peak(max_abs, f"{path}.{name}") for name, _ in branch.named_children()}
    if not children:
        return 0.0
    own = max_abs.get(path, 0.0)
    last = list(children)[-1]
    inner = {name: peak for name, peak in children.items() if name != last}
    if "core" in inner and not inner.pop("core") <= _LIMIT:
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
