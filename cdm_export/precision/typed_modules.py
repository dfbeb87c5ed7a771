"""Type a specialized network in place: low-precision weights and activations, casts only where the plan says.

Casts are modules of the network, so that in the exported graph each carries the path of the island it belongs to.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from cdm_export.precision.original_path import WRAPPED, original_path
from cdm_export.precision.plan import is_layer
from cdm_export.precision.rounded import COMPUTE_OPS
from cdm_export.reference_model.variant import NETWORK
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.graph_precision import PrecisionPlan, within

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class FloatIsland(nn.Module):
    """Takes any floating-point type, gives the module FP32, hands on ``out``.

    Around a block whose weights stay in low precision, it is the residual stream that is FP32.
    """

    def __init__(self, module: nn.Module, out: torch.dtype) -> None:
        super().__init__()
        self.add_module(WRAPPED, module)
        self.out = out

    def forward(self, *inputs: object) -> object:
        """Cast, run, cast."""
        return _as(getattr(self, WRAPPED)(*map(_in_fp32, inputs)), self.out)


def _as(value: object, dtype: torch.dtype) -> object:
    """Tensors, and lists of them, in another floating-point type; sizes as they are."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_as(item, dtype) for item in value)
    return value


def _in_fp32(value: object) -> object:
    return _as(value, torch.float32)


class FloatOutput(nn.Module):
    """A module of low precision whose result is widened to FP32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.add_module(WRAPPED, module)

    def forward(self, *inputs: object) -> object:
        """Run, then cast."""
        return _in_fp32(getattr(self, WRAPPED)(*inputs))


class CastInput(nn.Module):
    """Reads FP32, computes in low precision."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.add_module(WRAPPED, module)
        self.dtype = dtype

    def forward(self, *inputs: object) -> object:
        """Cast, then run."""
        return getattr(self, WRAPPED)(*(_as(value, self.dtype) for value in inputs))


@torch.no_grad()
def type_network(exportable: nn.Module, precision_plan: PrecisionPlan, contract: ModelContract) -> PrecisionPlan:
    """Type the network behind its interface in place; returns the plan with every cast that this took.

    Of ``contract`` only the shapes of the inputs count. Raises ParityError for a weight that is Inf in low precision.
    """
    network = exportable.get_submodule(NETWORK)
    low = _DTYPES[precision_plan.precision]
    for name, parameter in network.named_parameters():
        if precision_plan.computes_in_fp32(name):
            continue
        converted = parameter.to(low)
        if not converted.isfinite().all():
            raise ParityError(
                f"weight {name} reaches {float(parameter.abs().max()):.3g}, too much for {precision_plan.precision}",
                "Export without it: --precision fp32",
            )
        parameter.data = converted  # one weight at a time exists twice
    # Inner modules first: wrapping moves what is inside a path.
    for island in sorted(precision_plan.islands, key=lambda island: -len(island.module)):
        if any(within(island.module, other.module) for other in precision_plan.islands if other is not island):
            continue  # it computes in FP32 as part of a larger island
        out = low if island.output_dtype == "low" else torch.float32
        _replace(network, island.module, partial(FloatIsland, out=out))
    for path in sorted(precision_plan.outputs, key=lambda path: -len(path)):
        if not precision_plan.computes_in_fp32(path):
            _replace(network, path, FloatOutput)
    _float_sums(network, precision_plan.residuals, low)
    _cast_inputs(network, precision_plan.inputs, low)
    inputs, products, sums, out = _reconcile(exportable, network, precision_plan, low, contract)
    _cast_inputs(network, inputs, low)
    if out is low:
        setattr(exportable, NETWORK, FloatOutput(network))
        sums.setdefault("", "what every artifact hands on is FP32")
    inputs = {**precision_plan.inputs, **inputs}
    return precision_plan.model_copy(update={"inputs": inputs, "products": products, "sums": sums})


def _cast_inputs(network: nn.Module, paths: Collection[str], low: torch.dtype) -> None:
    for path in sorted(paths, key=lambda path: -len(path)):
        _replace(network, path, partial(CastInput, dtype=low))


def _float_sums(network: nn.Module, paths: Collection[str], low: torch.dtype) -> None:
    """Let modules keep their own sums in FP32: the last of a row hands that on to whatever comes next, the others to
    the next one, in the type its sums have.
    """
    for path in paths:
        parent, _, name = path.rpartition(".")
        following = f"{parent}.{int(name) + 1}" if name.isdigit() else ""
        if following and int(name) + 1 not in range(len(list(_at(network, parent).children()))):
            following = ""
        # What comes after the last one takes FP32 as it is; another one wants the type its own sums have.
        out = low if following and following not in paths else torch.float32
        _replace(network, path, partial(FloatIsland, out=out))


def _reconcile(
    exportable: nn.Module,
    network: nn.Module,
    precision_plan: PrecisionPlan,
    low: torch.dtype,
    contract: ModelContract,
) -> tuple[dict[str, str], dict[str, str], dict[str, str], torch.dtype]:
    """Layers of low precision that are given FP32, modules whose own products come out FP32, and modules in whose own
    operations both meet, each with the reason; and the type of the output.

    Found by running the network on tensors without data. What such a layer reads was measured to fit, or is 0..1.
    """
    inputs: dict[str, str] = {}
    handles = []
    for path, module in network.named_modules():
        if is_layer(module) and all(parameter.dtype is low for parameter in module.parameters()):

            def cast(module: nn.Module, given: tuple[Any, ...], path: str = original_path(path)) -> Any:
                if all(_as(value, low) is value for value in given):
                    return None  # it is of that type already
                inputs[path] = "FP32 that fits"
                return tuple(_as(value, low) for value in given)

            handles.append(module.register_forward_pre_hook(cast))
    seen = _Wide()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            fake = [mode.from_tensor(torch.empty(spec.shape)) for spec in contract.inputs]
            with seen:
                out: torch.dtype = exportable(*fake).dtype
    finally:
        for handle in handles:
            handle.remove()

    def outside(paths: set[str], why: str) -> dict[str, str]:
        free = (path for path in sorted(paths) if not precision_plan.computes_in_fp32(path) and path not in inputs)
        return dict.fromkeys(free, why)

    return inputs, outside(seen.products, "it reads FP32"), outside(seen.mixed, "FP32 meets lower precision"), out


class _Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, remembers modules whose matrix products and convolutions come out FP32, and modules in whose
    operations FP32 meets a lower precision.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: set[str] = set()
        self.mixed: set[str] = set()
        self._tracker = ModuleTracker()

    def __enter__(self) -> "_Wide":
        self._tracker.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._tracker.__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation."""
        out = func(*args, **(kwargs or {}))
        wide = isinstance(out, Tensor) and out.dtype is torch.float32
        if func in COMPUTE_OPS and wide:
            self.products.add(self._path())
        elif wide and any(value.dtype in _DTYPES.values() for value in _tensors(args)):
            self.mixed.add(self._path())
        return out

    def _path(self) -> str:
        innermost = max(self._tracker.parents - {"Global"}, key=len, default="")
        parts = innermost.split(".")[1:]
        return original_path(".".join(parts[1:] if parts[:1] == [NETWORK] else parts))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the arguments of an operation, and in their lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _replace(network: nn.Module, path: str, make: Callable[[nn.Module], nn.Module]) -> None:
    """Put a module around the one at ``path``, whatever stands around it or its parents already."""
    parent, _, name = path.rpartition(".")
    holder = _at(network, parent)
    setattr(holder, name, make(getattr(holder, name)))


def _at(network: nn.Module, path: str) -> nn.Module:
    """The network's own module at a path, under whatever stands around it and its parents."""
    found = network
    for name in path.split(".") if path else ():
        found = getattr(found, name)
        while WRAPPED in found._modules:
            found = getattr(found, WRAPPED)
    return found
