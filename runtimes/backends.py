"""The backends this toolkit knows, by name. A new backend is one module and one line here.

Modules are imported only when used, by name: the PyTorch reference lives in ``reference_model``, which this package
must not depend on.
"""

import importlib
import importlib.util
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from cdm_export.runtimes.contract import COMPRESSED, IMAGE, QUANTIZED, ModelContract
from cdm_export.runtimes.errors import BackendUnavailable, InputError, did_you_mean
from cdm_export.runtimes.host import usable_cpus, version_of
from cdm_export.runtimes.install import install
from cdm_export.runtimes.nvidia import find_gpu
from cdm_export.runtimes.runtime import CheckedRuntime, Session


@dataclass(frozen=True)
class Backend:
    """One way to run an artifact."""

    name: str
    """Name on the command line."""
    module: str
    """Module with ``load(path, contract, precision, threads)``."""
    library: str
    """Python package it needs, by import name."""
    extra: str
    """Extra of this package that brings the library; or, with a space in it, the command that does."""
    device: str
    """``cpu``, ``cuda`` or ``apple``."""
    format: str
    """Artifact format it runs; ``checkpoint`` for the reference."""
    precisions: Mapping[str, tuple[str, ...]]
    """Precisions it computes in, each with those of the artifacts it can be computed from, the best first: another one
    than itself where the precision is a hint to the library rather than in the graph."""
    engine: bool = False
    """Whether it runs engines that ``build`` made from an artifact, rather than the artifact."""
    distributions: tuple[str, ...] = ()
    """Distributions whose version is the library's, where they have another name than ``library``."""
    verifies_only: bool = False
    """Whether ``auto`` leaves it alone: it says what an artifact means, and is no way to run one."""

    @property
    def install(self) -> str:
        """Command that adds the library."""
        return self.extra if " " in self.extra else install(self.extra)

    @property
    def installed(self) -> bool:
        """Whether the library can be imported; says nothing about the device."""
        return importlib.util.find_spec(self.library) is not None

    def runs_for(self, precision: str, made: Collection[str]) -> str | None:
        """Precision of the artifact that is run for ``precision``, of those that were made; None when there is none."""
        return next((typed for typed in self.precisions.get(precision, ()) if typed in made), None)

    @property
    def version(self) -> str | None:
        """Version of the library, without importing it; None when it is not installed."""
        names = (self.library, f"{self.library}-gpu", *self.distributions)
        return next((version for name in names if (version := version_of(name))), None)


def _as_typed(*precisions: str) -> dict[str, tuple[str, ...]]:
    return {precision: (precision,) for precision in precisions}


_ONNXRUNTIME = _as_typed("fp32", "fp16", "fp16-attn32")
"""It computes as the graph says; its CPU has no BF16 kernels."""
_TENSORRT = {**_as_typed("fp32", "fp16", "fp16-attn32", "bf16", "int8-fp16"), "tf32": ("fp32",)}
"""TF32 is how the float32 graph may be computed."""
_INSTALL_TENSORRT = "sudo apt-get install python3-libnvinfer  # JetPack; elsewhere: pip install tensorrt"

_PACKAGES = _as_typed("fp32", "fp16", IMAGE, *COMPRESSED, QUANTIZED)
_OPENVINO = {**_as_typed("fp32", "int8"), "bf16": ("bf16", "fp32"), "int8-bf16": ("int8",)}
"""BF16 is best typed into the graph, with FP32 islands; of the FP32 graph it is a hint that spares nothing."""

_HERE = __name__.rpartition(".")[0]

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("torch", "cdm_export.reference_model.torch_runtime", "torch", "export", "cpu",
                "checkpoint", _as_typed("fp32")),
        Backend("tensorrt", f"{_HERE}.tensorrt", "tensorrt", _INSTALL_TENSORRT, "cuda", "onnx", _TENSORRT,
                engine=True, distributions=("tensorrt_cu13", "tensorrt_cu12")),
        Backend("tensorrt-rtx", f"{_HERE}.tensorrt", "tensorrt_rtx_bindings",
                "tensorrt-rtx", "cuda", "onnx", _TENSORRT,
                engine=True, distributions=("tensorrt_rtx_cu13_bindings", "tensorrt_rtx")),
        Backend("coreml", f"{_HERE}.coreml", "coremltools", "coreml", "apple", "coreml", _PACKAGES),
        Backend("openvino", f"{_HERE}.openvino", "openvino", "cpu", "cpu", "onnx",
                _OPENVINO),
        Backend("onnxruntime", f"{_HERE}.onnxruntime", "onnxruntime", "cpu", "cpu", "onnx",
                {**_ONNXRUNTIME, **_as_typed("int8", "int8-fp16")}),
        Backend("onnxruntime-cuda", f"{_HERE}.onnxruntime", "onnxruntime", "gpu", "cuda",
                "onnx", _ONNXRUNTIME),
        Backend("onnxruntime-tensorrt", f"{_HERE}.onnxruntime", "onnxruntime", "gpu", "cuda",
                "onnx", _ONNXRUNTIME),
        Backend("coreml-reference", "cdm_export.coreml.interpreter.runtime", "coremltools", "coreml", "cpu",
                "coreml", _PACKAGES, verifies_only=True),
    )
}  # fmt: skip
"""In the order ``auto`` prefers them where nothing was measured; the reference is never chosen by ``auto``."""


class BackendModule(Protocol):
    """What a backend's module offers."""

    def load(self, path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> Session:
        """Open an artifact. ``threads`` 0 leaves the choice to the library's default on this machine.

        Raises BackendUnavailable when library, device or precision is not to be had here.
        """
        ...


def get_backend(name: str) -> Backend:
    """Backend by name. Raises InputError naming the closest known one."""
    if name not in BACKENDS:
        raise InputError(f"unknown backend '{name}'. {did_you_mean(name, ['auto', *BACKENDS])}")
    return BACKENDS[name]


def who_runs(precision: str) -> str:
    """Next step for someone who asked a backend for a precision it does not have; empty when none has it."""
    others = [backend.name for backend in BACKENDS.values() if precision in backend.precisions]
    return f"{precision} runs with: {', '.join(f'--backend {name}' for name in others)}" if others else ""


def why_absent(backend: Backend) -> BackendUnavailable | None:
    """Why a backend cannot run on this machine, as far as that can be told without importing or starting anything:
    library, provider, operating system, driver. None where nothing speaks against it.
    """
    if not backend.installed:
        return BackendUnavailable(
            f"backend '{backend.name}' needs the package '{backend.library}', which is not installed here",
            f"Add it with: {backend.install}",
        )
    if backend.device == "apple" and platform.system() != "Darwin":
        return BackendUnavailable(
            f"Core ML runs on a Mac, this is {platform.system()}: a package can be verified here, not run",
            "Verify it with: cdm-export verify BUNDLE --backend coreml-reference",
        )
    if backend.name in _PROVIDER_LIBRARIES and not _has_provider(backend):
        provider, _ = _PROVIDER_LIBRARIES[backend.name]
        return BackendUnavailable(
            f"this {backend.library} {backend.version or ''} has no {provider}: it is a build without it",
            f"Add it with: pip uninstall {backend.library} && {backend.install}",
        )
    if backend.device == "cuda":
        try:
            find_gpu()
        except BackendUnavailable as error:
            return error
    return None


_PROVIDER_LIBRARIES = {
    "onnxruntime-cuda": ("CUDAExecutionProvider", "onnxruntime_providers_cuda"),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "onnxruntime_providers_tensorrt"),
}
"""Provider of ONNX Runtime and the shared library it lies in; both are the same in every build that has them."""


def _has_provider(backend: Backend) -> bool:
    """Whether the installed build has the provider's library; asking the package itself would import it."""
    spec = importlib.util.find_spec(backend.library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    name = _PROVIDER_LIBRARIES[backend.name][1]
    return any(list((Path(folder) / "capi").glob(f"*{name}*")) for folder in folders)


def load_runtime(
    backend: Backend, path: Path, contract: ModelContract, precision: str, threads: int = 0
) -> CheckedRuntime:
    """Open an artifact with a backend. Raises BackendUnavailable with the command that adds what is missing."""
    if not backend.installed and (absent := why_absent(backend)) is not None:
        raise absent
    if precision not in backend.precisions:
        raise BackendUnavailable(
            f"backend '{backend.name}' does not run {precision}; it runs {', '.join(backend.precisions)}",
            who_runs(precision),
        )
    if threads > usable_cpus():
        raise InputError(f"{threads} threads were asked for, this machine has {usable_cpus()} usable CPU(s)")
    module = cast(BackendModule, importlib.import_module(backend.module))
    return CheckedRuntime(module.load(path, contract, backend, precision, threads), contract)
