"""ONNX Runtime: CPU, and CUDA when asked for. Falling back from one to the other is an error, never silence."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.backends import Backend
from runtimes.contract import CONTRACT_KEY, ModelContract
from runtimes.errors import BackendUnavailable, BundleError
from runtimes.host import cpu_name, usable_cpus
from runtimes.runtime import CallGuard, Description, Tensors, check_boundary

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """One inference session; outputs are fresh arrays."""

    reuses_outputs = False

    def __init__(self, session: Any, contract: ModelContract, backend: Backend, precision: str, threads: int) -> None:
        self.contract = contract
        self._session = session
        self._backend = backend
        self._precision = precision
        self._threads = threads
        self._guard = CallGuard(contract)
        self._names = [spec.name for spec in contract.outputs]

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once."""
        self._guard.check(inputs)
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))

    def describe(self) -> Description:
        """Providers as the session reports them, not as requested."""
        import onnxruntime

        return Description(
            backend=self._backend.name,
            precision=self._precision,
            device=f"CPU ({cpu_name()})" if self._backend.device == "cpu" else "CUDA device 0",
            provider=", ".join(self._session.get_providers()),
            threads=self._threads,
            versions={"onnxruntime": onnxruntime.__version__},
            executed={"providers": self._session.get_providers()},
        )

    def close(self) -> None:
        """Drop the session."""
        self._guard.close()
        self._session = None


def load(path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> OnnxRuntime:
    """Open an ONNX file.

    Raises BackendUnavailable when the provider is missing or would not run the whole graph, BundleError when the file
    is not a graph ONNX Runtime accepts or its inputs and outputs are not the contract's.
    """
    import onnxruntime

    wanted = _PROVIDERS[backend.device]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise BackendUnavailable(
            f"this onnxruntime {onnxruntime.__version__} has no {wanted}; it has {', '.join(available)}",
            f"Add it with: pip uninstall onnxruntime && {backend.install}",
        )
    threads = threads or usable_cpus()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    provider_options: dict[str, str] = {}
    if backend.device == "cuda":
        provider_options = {"use_tf32": "0"}  # fp32 means fp32
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[(wanted, provider_options)])
    except Exception as error:  # its exception types are not public
        if backend.device == "cuda":
            raise BackendUnavailable(
                f"ONNX Runtime could not run the whole graph on CUDA: {_first_line(error)}", "See: cdm-export doctor"
            ) from error
        raise BundleError(f"ONNX Runtime refused {path.name}: {_first_line(error)}") from error
    if session.get_providers()[0] != wanted:
        raise BackendUnavailable(
            f"ONNX Runtime was asked for {wanted} and gave {', '.join(session.get_providers())}: not running on the "
            "CPU in silence",
            "See: cdm-export doctor",
        )
    _check_boundary(session, contract, path)
    _check_contract(session, contract, path)
    return OnnxRuntime(session, contract, backend, precision, threads)


def _check_boundary(session: Any, contract: ModelContract, path: Path) -> None:
    got = {node.name: tuple(node.shape) for node in (*session.get_inputs(), *session.get_outputs())}
    check_boundary(got, contract, path)


def _check_contract(session: Any, contract: ModelContract, path: Path) -> None:
    """The contract travels in the file too: a manifest edited by hand gives itself away."""
    inside = session.get_modelmeta().custom_metadata_map.get(CONTRACT_KEY)
    if inside is not None and ModelContract.model_validate_json(inside) != contract:
        raise BundleError(
            f"{path.name} was made for another contract than the manifest has: {inside}", "Export the bundle again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
