"""What every backend is: a tensor function with a contract, an owner thread and a true account of itself."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import BundleError, RuntimeMisuse

Tensors = Mapping[str, NDArray[Any]]
"""Network inputs by name."""


@dataclass(frozen=True)
class Description:
    """What is running, as reported by the library that runs it, never as requested."""

    backend: str
    """Name of the backend, e.g. ``onnxruntime``."""
    precision: str
    """Precision of the artifact, e.g. ``fp32``; an execution hint that changes it is part of the name."""
    device: str
    """Device in words, e.g. ``CPU (AMD EPYC)``."""
    provider: str
    """Execution provider or plugin that got the graph."""
    threads: int
    """Compute threads; 0 when the library does not say."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library versions."""
    executed: dict[str, Any] = field(default_factory=dict)
    """What really executes: nodes by type and precision, as far as the library tells."""


class Runtime(Protocol):
    """A loaded artifact.

    Outputs are owned by the caller unless ``reuses_outputs`` is true; then they are valid until the next call.
    A runtime belongs to the thread that opened it: calls from another raise RuntimeMisuse.
    """

    contract: ModelContract
    reuses_outputs: bool

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once. Raises RuntimeMisuse for wrong names, shapes, dtypes, a second thread, or after close."""
        ...

    def describe(self) -> Description:
        """What is loaded, where it runs and what really executes. Raises RuntimeMisuse after close."""
        ...

    def close(self) -> None:
        """Free the device; calling again is harmless."""
        ...


class Session(Protocol):
    """What a backend's ``load`` gives: a tensor function that checks nothing. ``CheckedRuntime`` does, once for all."""

    reuses_outputs: bool

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once on arrays that have the contract's names, shapes and types; every output by name."""
        ...

    def describe(self) -> Description:
        """What is loaded, where it runs and what really executes."""
        ...

    def close(self) -> None:
        """Free the device; called once."""
        ...


@runtime_checkable
class DeviceClock(Protocol):
    """A session, or a runtime, whose device times its own stages."""

    def device_stages(self) -> dict[str, float]:
        """Milliseconds of the last call by stage, in order, by the device's clock."""
        ...


def check_interface(got: dict[str, tuple[int, ...]], contract: ModelContract, path: Path) -> None:
    """Raise BundleError unless a loaded artifact has the contract's inputs and outputs, name for name."""
    expected = {spec.name: spec.shape for spec in (*contract.inputs, *contract.outputs)}
    if got != expected:
        raise BundleError(f"{path.name} has the interface {got}, the contract says {expected}")


class CheckedRuntime:
    """A session behind every check: its thread, open or closed, what goes in and what comes out."""

    def __init__(self, session: Session, contract: ModelContract) -> None:
        self.contract = contract
        self.reuses_outputs = session.reuses_outputs
        self.session = session
        """The backend's own."""
        self._owner = threading.get_ident()
        self._closed = False

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once. Raises RuntimeMisuse for wrong names, shapes, dtypes, a second thread, or after close; BundleError
        when the backend gives other outputs than the contract's.
        """
        self._check_open()
        if threading.get_ident() != self._owner:
            raise RuntimeMisuse(
                "a runtime belongs to the thread that opened it, and was called from another",
                "Open one runtime per thread, or hand frames to the owning thread.",
            )
        if not isinstance(inputs, Mapping):
            raise RuntimeMisuse(f"inputs are arrays by name, got {type(inputs).__name__}")
        expected = {spec.name: spec for spec in self.contract.inputs}
        if set(inputs) != set(expected):
            raise RuntimeMisuse(f"inputs are {sorted(inputs)}, expected {sorted(expected)}")
        for name, array in inputs.items():
            spec = expected[name]
            if not isinstance(array, np.ndarray):
                raise RuntimeMisuse(f"input '{name}' must be a NumPy array, got {type(array).__name__}")
            if array.dtype != spec.dtype or array.shape != spec.shape:
                raise RuntimeMisuse(
                    f"input '{name}' is {array.dtype} {list(array.shape)}, expected {spec.dtype} {list(spec.shape)}"
                )
        outputs = self.session.run(inputs)
        for spec in self.contract.outputs:
            got = outputs.get(spec.name)
            if got is None or got.dtype != np.float32 or got.shape != spec.shape:
                what = "nothing" if got is None else f"{got.dtype} {list(got.shape)}"
                raise BundleError(
                    f"the backend gave {what} for output '{spec.name}', expected float32 {list(spec.shape)}",
                    "Another backend may do: cdm-export verify BUNDLE says which.",
                )
        return outputs

    def device_stages(self) -> dict[str, float]:
        """See ``DeviceClock``; empty where the device has no clock that the backend reads."""
        return self.session.device_stages() if isinstance(self.session, DeviceClock) else {}

    def describe(self) -> Description:
        """What is loaded, where it runs and what really executes. Raises RuntimeMisuse after close."""
        self._check_open()
        return self.session.describe()

    def close(self) -> None:
        """Free the device; calling again is harmless."""
        if not self._closed:
            self._closed = True
            self.session.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeMisuse("this runtime was closed", "Open the bundle again.")
