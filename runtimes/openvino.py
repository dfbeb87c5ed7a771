"""OpenVINO on CPU, with an explicit precision hint: its own default may be bf16 on CPUs that have it.

A hint of bf16 spares nothing. A graph that is typed BF16 is computed as it is typed, FP32 islands included, under a
hint of f32, where the CPU has BF16; elsewhere OpenVINO computes all of it in FP32 without a word, so the
CPU is asked before, and the executable graph after.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import BackendUnavailable, BundleError
from cdm_export.runtimes.host import usable_cpus
from cdm_export.runtimes.runtime import Description, Tensors, check_interface
from cdm_export.runtimes.telemetry import import_openvino

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32", "int8-bf16": "bf16"}
"""Precision -> INFERENCE_PRECISION_HINT: what is not quantized in the graph, nor typed in it."""

_COMPUTE_OPS = ("FullyConnected", "MatMul", "Convolution")


class OpenVino:
    """One compiled model and one request; outputs are fresh arrays."""

    reuses_outputs = False

    def __init__(self, compiled: Any, contract: ModelContract, precision: str, threads: int) -> None:
        self.contract = contract
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._precision = precision
        self._threads = threads

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once."""
        self._request.infer(dict(inputs), share_inputs=True)
        return {
            spec.name: np.array(self._request.get_tensor(spec.name).data, copy=True) for spec in self.contract.outputs
        }

    def describe(self) -> Description:
        """Devices, the hint in force, nodes by runtime precision and products by precision and kernel, as the
        executable graph has them.
        """
        openvino = import_openvino()
        compiled = self._compiled
        nodes = _executed(compiled)
        executed = Counter(node["runtimePrecision"] for node in nodes if "runtimePrecision" in node)
        products = Counter(f"{node['runtimePrecision']} {node['primitiveType']}" for node in nodes if _is_product(node))
        devices = compiled.get_property("EXECUTION_DEVICES")
        return Description(
            backend="openvino",
            precision=self._precision,
            device=f"CPU ({openvino.Core().get_property('CPU', 'FULL_DEVICE_NAME')})",
            provider=", ".join(devices),
            threads=self._threads,
            versions={"openvino": openvino.__version__.split("-")[0]},
            executed={
                "precision_hint": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
                "nodes_by_precision": dict(executed.most_common()),
                "products_by_kernel": dict(products.most_common()),
            },
        )

    def close(self) -> None:
        """Drop the request and the model."""
        self._request = self._compiled = None


def load(path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> OpenVino:
    """Read an ONNX file and compile it for the CPU.

    Raises BackendUnavailable when OpenVINO has no CPU plugin here or does not honour the hint, BundleError when it
    refuses the file.
    """
    openvino = import_openvino()
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise BackendUnavailable(f"OpenVINO {openvino.__version__} has no CPU device here: {core.available_devices}")
    wanted, can = _HINTS[precision], core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted == "bf16" and "BF16" not in can:  # AVX512 alone obeys the hint, one number at a time
        raise BackendUnavailable(f"this CPU has no bf16 arithmetic for OpenVINO, it has {', '.join(can)}")
    threads = threads or usable_cpus()
    try:
        model = core.read_model(path)
        _check_boundary(model, contract, path)
        typed = any(operation.get_output_element_type(0).get_type_name() == "bf16" for operation in model.get_ops())
        config = {
            "INFERENCE_PRECISION_HINT": "f32" if typed else wanted,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        compiled = core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise BundleError(f"OpenVINO refused {path.name}: {str(error).strip().splitlines()[-1][:300]}") from error
    given = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if typed and any(node["runtimePrecision"] == "bf16" for node in _executed(compiled) if _is_product(node)):
        given = "bf16"
    if given != wanted:
        raise BackendUnavailable(
            f"OpenVINO was asked for {wanted} and would compute in {given}: this CPU has no {precision} arithmetic"
        )
    return OpenVino(compiled, contract, precision, threads)


def _executed(compiled: Any) -> list[dict[str, str]]:
    """What is known of every node of the executable graph, by name."""
    return [
        {name: str(value.astype(str)) for name, value in operation.get_rt_info().items()}
        for operation in compiled.get_runtime_model().get_ops()
    ]


def _is_product(node: dict[str, str]) -> bool:
    return node["layerType"] in _COMPUTE_OPS


def _check_boundary(model: Any, contract: ModelContract, path: Path) -> None:
    got = {port.any_name: tuple(port.shape) for port in (*model.inputs, *model.outputs)}
    check_interface(got, contract, path)
