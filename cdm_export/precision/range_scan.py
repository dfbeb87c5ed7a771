"""The largest magnitude every module of a network produces on real frames, before anything is typed."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from cdm_export.reference_model.variant import NETWORK


class RangeScan(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, remembers max |x| of every floating-point result, by path of the module that computed it.

    Inside a module the results of its own operations count (sums, products, softmax); those of its children count for
    the children. A result that is not a number stays: NaN is remembered, never compared away.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.max_abs: dict[str, float] = {}
        """Of results; and, under ``entering(PATH)``, of what operations with a parameter read in module PATH."""
        self._tracker = ModuleTracker()

    def __enter__(self) -> "RangeScan":
        self._tracker.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._tracker.__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and look at what came out; views show nothing new."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            path = self._path()
            if any(isinstance(value, nn.Parameter) for value in args):
                self._see(entering(path), (value for value in args if not isinstance(value, nn.Parameter)))
            self._see(path, out if isinstance(out, tuple | list) else (out,))
        return out

    def _see(self, key: str, values: Iterable[object]) -> None:
        for value in values:
            if not (isinstance(value, Tensor) and value.is_floating_point() and value.numel()):
                continue
            low, high = (float(bound) for bound in value.detach().aminmax())
            peak = max(-low, high) if low == low and high == high else float("nan")
            known = self.max_abs.get(key, 0.0)
            self.max_abs[key] = known if known != known or known >= peak else peak

    def _path(self) -> str:
        """Path in the network of the innermost module being run; empty for the interface."""
        innermost = max(self._tracker.parents - {"Global"}, key=len, default="")
        parts = innermost.split(".")[1:]
        return ".".join(parts[1:] if parts[:1] == [NETWORK] else parts)


def entering(path: str) -> str:
    """Key of what a layer reads; no module has a path with an arrow in it."""
    return f"-> {path}"
