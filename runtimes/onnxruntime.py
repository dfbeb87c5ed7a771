"""ONNX Runtime: CPU, and CUDA or its TensorRT provider when asked for. Falling back is an error, never silence."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.cache import cache_dir
from cdm_export.runtimes.contract import CONTRACT_KEY, INTEGER, ModelContract
from cdm_export.runtimes.errors import BackendUnavailable, BundleError
from cdm_export.runtimes.hashing import cached_sha256
from cdm_export.runtimes.host import cpu_name, usable_cpus
from cdm_export.runtimes.nvidia import find_gpu
from cdm_export.runtimes.runtime import Description, Tensors, check_interface
from cdm_export.runtimes.telemetry import import_onnxruntime
from cdm_export.runtimes.temporary import TemporaryFolder

PROVIDERS = {
    "onnxruntime": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}
"""What each backend's name stands for."""


class OnnxRuntime:
    """One inference session; outputs are fresh arrays."""

    reuses_outputs = False

    def __init__(
        self,
        session: Any,
        contract: ModelContract,
        backend: Backend,
        precision: str,
        threads: int,
        profile: TemporaryFolder | None = None,
    ) -> None:
        """``profile``: where the session writes what its first call does, when it was opened to."""
        self.contract = contract
        self._session = session
        self._backend = backend
        self._precision = precision
        self._threads = threads
        self._names = [spec.name for spec in contract.outputs]
        self._profile = profile
        self._kernels: dict[str, int] | None = None

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once."""
        outputs = self._session.run(self._names, dict(inputs))
        if self._profile is not None:
            self._kernels = products_by_kernel(self._session)
            self._profile.cleanup()
            self._profile = None
        return dict(zip(self._names, outputs, strict=True))

    def describe(self) -> Description:
        """Providers as the session reports them, not as requested, and the nodes each of them got.

        For INT8, after the first call: the kernels of all products, from the session's own profile of that call.
        """
        onnxruntime = import_onnxruntime()
        executed: dict[str, Any] = {"providers": self._session.get_providers()}
        if (assigned := nodes_by_provider(self._session)) is not None:
            executed["nodes_by_provider"] = assigned
        if self._kernels is not None:
            executed["products_by_kernel"] = self._kernels
        return Description(
            backend=self._backend.name,
            precision=self._precision,
            device=f"CPU ({cpu_name()})" if self._backend.device == "cpu" else str(find_gpu()),
            provider=", ".join(self._session.get_providers()),
            threads=self._threads,
            versions={"onnxruntime": onnxruntime.__version__},
            executed=executed,
        )

    def close(self) -> None:
        """Drop the session."""
        self._session = None
        if self._profile is not None:
            self._profile.cleanup()
            self._profile = None


def load(path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> OnnxRuntime:
    """Open an ONNX file.

    Raises BackendUnavailable when the provider is missing or would not run the whole graph, BundleError when the file
    is not a graph ONNX Runtime accepts or its inputs and outputs are not the contract's.
    """
    onnxruntime = import_onnxruntime()
    wanted = PROVIDERS[backend.name]
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
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if backend.device == "cuda":
        find_gpu()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    disabled = []
    profile = None
    if precision in INTEGER:
        profile = TemporaryFolder()  # goes with the runtime, whatever becomes of it
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(profile.name) / "profile")
        # It joins product and bias before integer products are looked for, and then none is found (seen in 1.31: all
        # weights restored to floats, 2.5 times as slow). Delete when an int8 graph's profile shows
        # MatMulIntegerToFloat without it.
        disabled = ["MatMulAddFusion"]
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=_with_options(wanted, path, precision), disabled_optimizers=disabled
        )
    except Exception as error:  # its exception types are not public
        if backend.device == "cuda":
            raise BackendUnavailable(
                f"ONNX Runtime could not run the whole graph on CUDA: {_first_line(error)}", "See: cdm-export doctor"
            ) from error
        raise BundleError(f"ONNX Runtime refused {path.name}: {_first_line(error)}") from error
    require_provider(session, wanted)
    _check_boundary(session, contract, path)
    _check_contract(session, contract, path)
    return OnnxRuntime(session, contract, backend, precision, threads, profile)


def _with_options(wanted: str, path: Path, precision: str) -> list[tuple[str, dict[str, str]]]:
    """Providers in the order nodes are offered to them; fp32 means fp32 in all of them."""
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    if wanted == "CPUExecutionProvider":
        return [(wanted, {})]
    if wanted == "CUDAExecutionProvider":
        return [cuda]
    # The provider has no option for TF32; NVIDIA's libraries read this variable when they are first loaded.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    cache = cache_dir() / "onnxruntime-tensorrt" / f"{precision}-{cached_sha256(path)[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }  # no precision flag: types are the graph's, and `verify` judges what comes out
    return [(wanted, options), cuda]


def require_provider(session: Any, wanted: str) -> None:
    """Raise BackendUnavailable unless ``wanted`` really runs the graph: first of the providers, and nothing on the CPU
    beside it. What TensorRT cannot take may go to CUDA, most of the graph may not.
    """
    got = session.get_providers()
    if got[0] != wanted:
        raise BackendUnavailable(
            f"ONNX Runtime was asked for {wanted} and gave {', '.join(got)}: not running on the CPU in silence",
            "See: cdm-export doctor",
        )
    assigned = nodes_by_provider(session)
    if assigned is None:
        return  # ONNX Runtime before 1.24 does not tell; its own ban of the CPU has to do
    nodes = sum(assigned.values())
    strangers = {name: count for name, count in assigned.items() if name not in (wanted, "CUDAExecutionProvider")}
    if strangers or not assigned.get(wanted, 0) > nodes / 2:
        shares = ", ".join(f"{count} on {name}" for name, count in sorted(assigned.items()))
        raise BackendUnavailable(
            f"of {nodes} nodes, {shares}: {wanted} does not run this graph", "Try another backend."
        )


def nodes_by_provider(session: Any) -> dict[str, int] | None:
    """How many nodes of the graph each provider got; None where the library does not tell."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        return None
    counts: Counter[str] = Counter()
    for part in ask():
        counts[str(part.ep_name)] += len(part.get_nodes())
    return dict(counts)


_COMPUTE_OPS = ("MatMul", "Gemm", "Conv")
"""How the names of kernels of products begin, also behind QLinear, Fused and the like."""


def products_by_kernel(session: Any) -> dict[str, int]:
    """Calls of every kernel that multiplies matrices or convolves, from the profile a session was opened with."""
    events = json.loads(Path(session.end_profiling()).read_text())
    names = Counter(
        str(event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
    )
    return {name: count for name, count in names.most_common() if any(part in name for part in _COMPUTE_OPS)}


def _check_boundary(session: Any, contract: ModelContract, path: Path) -> None:
    got = {node.name: tuple(node.shape) for node in (*session.get_inputs(), *session.get_outputs())}
    check_interface(got, contract, path)


def _check_contract(session: Any, contract: ModelContract, path: Path) -> None:
    """The contract travels in the file too: a manifest edited by hand gives itself away."""
    inside = session.get_modelmeta().custom_metadata_map.get(CONTRACT_KEY)
    if inside is not None and ModelContract.model_validate_json(inside) != contract:
        raise BundleError(
            f"{path.name} was made for another contract than the manifest has: {inside}", "Export the bundle again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
