"""What FP32 islands cost and buy under OpenVINO's bf16 hint -> ``results/bf16_islands.json``.

``python -m benchmarks.bf16_islands cdm-vits [--real FOLDER]``: a network of its own from PyTorch, on the sample frame
and on real ones where there are some; every island set beside plain bf16, f32 and ONNX Runtime on the untouched
graph, timed in turns. Models add up in one JSON.

The CPU plugin keeps a node in FP32 when it carries the runtime attribute ``DisablePrecisionConversion`` to f16 (it asks
for f16 whatever the hint). Python cannot set it; an IR file can hold it. A linear layer loses it when the plugin
fuses the bias, which it does not when the bias is stored at full size.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import numpy as np
import typer
from numpy.typing import NDArray

from cdm_export.bench.environment import environment
from cdm_export.onnx.convert import export_onnx
from cdm_export.parity.compare import compare
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.runtimes.contract import DEFAULT_FAR, ModelContract, Size
from cdm_export.runtimes.host import usable_cpus
from cdm_export.runtimes.measure import Measurement, measure
from cdm_export.runtimes.processing import preprocess
from cdm_export.runtimes.sources import open_source
from cdm_export.runtimes.telemetry import import_onnxruntime, import_openvino
from cdm_export.transforms import specialize_for

RESULT = Path(__file__).parent / "results" / "bf16_islands.json"
CAMERA = Size(640, 480)
_SEED = 1
_REAL = {"redwood_0": 1000.0, "tum_0": 5000.0}
"""Real frames that are used, and their sensor units per meter."""

_FINAL = r"scratch\.output_conv|^depth_head_rgbd/Resize"
_HEAD = r"^depth_head_rgbd"
_FUSION = r"^crossAtts"
_PATCH = r"^depth_pretrained\.patch_embed"
_STREAM = r"norm\d?/|^MVN|blocks\.\d+/Add|\.ls\d/|pretrained/Add"
ISLANDS: dict[str, str | None] = {
    "bf16, no island": None,
    "output_conv2": r"scratch\.output_conv2",
    "output_conv1, resize, output_conv2": _FINAL,
    "whole DPT head": _HEAD,
    "depth patch embedding": _PATCH,
    "LayerNorms, residual stream": _STREAM,
    "attention": r"\.attn\.core/",
    "depth encoder": r"^depth_pretrained",
    "fusion": _FUSION,
    "fusion, output_conv": f"{_FUSION}|{_FINAL}",
    "fusion, head": f"{_FUSION}|{_HEAD}",
    "fusion, head, LayerNorms, residual stream, depth patch embedding": f"{_FUSION}|{_HEAD}|{_STREAM}|{_PATCH}",
    "everything that can be": r".",
}
"""Island set -> pattern of the names of nodes that stay in FP32."""
_F32, _PLAIN = "OpenVINO f32", "ONNX Runtime, untouched graph"

Inputs = dict[str, NDArray[np.float32]]


def main(
    model: Annotated[str, typer.Argument(help="Registry name; shipped weights, else seeded ones.")],
    real: Annotated[Path, typer.Option(help="Folder of real frames; left out when absent.")] = Path(
        "../shared/data/rgbd"
    ),
    budget: Annotated[float, typer.Option(help="Seconds of timed calls per candidate.")] = 8.0,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON to write; other models in it stay.")] = RESULT,
) -> None:
    """Measure one model, print its table, write JSON."""
    variant = get_variant(model)
    contract = variant.contract(model, CAMERA, variant.default_input_size, "bgr", 6.0, DEFAULT_FAR)
    frames = _frames(contract, real)
    with tempfile.TemporaryDirectory(prefix="cdm-export-") as temporary:
        folder = Path(temporary)
        references, weights = _from_pytorch(model, contract, frames, folder)
        result = _measure(contract, frames, references, folder, budget)
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document[model] = {
        "environment": environment(),
        "weights": weights,
        "network": str(contract.network),
        "frames": list(frames),
        "candidates": result,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(_table(model, document[model]))


def bf16_islands(path: Path = RESULT) -> str:
    """Markdown: error against time of every island set, model by model."""
    return "\n\n".join(_table(model, result) for model, result in json.loads(path.read_text()).items())


def _table(model: str, result: dict[str, Any]) -> str:
    rows = [
        f"| {model} at {result['network']}, {len(result['frames'])} frames | mean error | 99th percentile | gate | p50 "
        "| x OpenVINO f32 | x ONNX Runtime, untouched |",
        "|---|---|---|---|---|---|---|",
    ]
    candidates = result["candidates"]
    for name, row in candidates.items():
        p50 = row["latency"]["p50"]
        errors = f"{row['mean']:.1e} | {row['p99']:.1e} | {row['verdict']}" if "mean" in row else "| |"
        ratios = " | ".join(f"{p50 / candidates[base]['latency']['p50']:.2f}" for base in (_F32, _PLAIN))
        rows.append(f"| {name} | {errors} | {p50:.0f} ms | {ratios} |")
    return "\n".join(rows)


def _frames(contract: ModelContract, real: Path) -> dict[str, Inputs]:
    sample = open_source("sample", camera=CAMERA)
    chosen = {"sample": sample.load(0).frame}
    if real.is_dir():
        for name, scale in _REAL.items():
            source = open_source(str(real), depth_scale=scale, camera=CAMERA, fit=True)
            chosen[name] = source.load(source.names.index(name)).frame
    return {name: preprocess(frame, contract) for name, frame in chosen.items()}


def _from_pytorch(
    model: str, contract: ModelContract, frames: dict[str, Inputs], folder: Path
) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Reference outputs; ``untouched.onnx`` and ``fp32.onnx`` in the folder; where the weights came from."""
    import torch

    from cdm_export.reference_model.checkpoint import load_network
    from cdm_export.reference_model.random_weights import calibrate_range, seeded_network
    from cdm_export.reference_model.reference import run_reference

    variant, path = get_variant(model), bundled_checkpoint(model)
    if path is not None:
        network, weights = load_network(path, variant)[0], path.name
    else:
        network, weights = seeded_network(variant, _SEED), f"seed {_SEED}, range-calibrated"
        first = next(iter(frames.values()))
        tensors = tuple(torch.from_numpy(first[spec.name]) for spec in contract.inputs)
        calibrate_range(network, variant, contract.channel_order, tensors, _SEED)
    exportable = variant.exportable(network, contract.channel_order).eval()
    references = {
        name: run_reference(exportable, contract, inputs)[contract.output.name] for name, inputs in frames.items()
    }
    export_onnx(exportable, contract, folder / "untouched.onnx")
    specialize_for(contract, exportable)
    export_onnx(exportable, contract, folder / "fp32.onnx")
    return references, weights


def _measure(
    contract: ModelContract,
    frames: dict[str, Inputs],
    references: dict[str, NDArray[np.float32]],
    folder: Path,
    budget: float,
) -> dict[str, dict[str, Any]]:
    runs: dict[str, Callable[[Inputs], NDArray[np.float32]]] = {_PLAIN: _onnxruntime(folder / "untouched.onnx")}
    result: dict[str, dict[str, Any]] = {_PLAIN: {}}
    openvino = import_openvino()
    core = openvino.Core()
    for name, pattern in ({_F32: None} | ISLANDS).items():
        xml = folder / "candidate.xml"
        marked = _write(core, folder / "fp32.onnx", pattern, xml)
        runs[name], executed = _compile(core, xml, "f32" if name == _F32 else "bf16")
        result[name] = {"marked": marked, "executed": executed}
        outputs = {frame: runs[name](inputs) for frame, inputs in frames.items()}
        parities = [
            compare(frame, references[frame], raw, contract, "fp32" if name == _F32 else "bf16")
            for frame, raw in outputs.items()
        ]
        verdicts = [parity.verdict for parity in parities]
        result[name] |= {
            "verdict": next((verdict for verdict in verdicts if verdict != "passed"), "passed"),
            "mean": max(parity.depth.mean or float("nan") for parity in parities),
            "p99": max(parity.depth.p99 or float("nan") for parity in parities),
            "frames": {parity.frame: {"mean": parity.depth.mean, "p99": parity.depth.p99} for parity in parities},
        }
    inputs = next(iter(frames.values()))
    timed: dict[str, Measurement] = measure(
        {name: (lambda run=run: run(inputs)) for name, run in runs.items()},  # type: ignore[misc]
        budget=budget,
    )
    for name, measurement in timed.items():
        result[name]["latency"] = measurement.model_dump(mode="json")
    return result


def _write(core: Any, onnx: Path, pattern: str | None, xml: Path) -> int:
    """Write the graph as IR with the attribute on every operation whose name matches. Returns how many."""
    openvino = import_openvino()
    model = core.read_model(onnx)
    if pattern:
        _store_biases_at_full_size(model, pattern)
    openvino.save_model(model, xml, compress_to_fp16=False)
    if not pattern:
        return 0
    tree = ElementTree.parse(xml)
    layers = tree.getroot().find("layers")
    assert layers is not None
    marked = 0
    for layer in layers:
        if layer.get("type") in ("Const", "Parameter", "Result") or not re.search(pattern, layer.get("name", "")):
            continue
        info = layer.find("rt_info")
        if info is None:
            info = ElementTree.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, info)
        ElementTree.SubElement(info, "attribute", name="DisablePrecisionConversion", version="0", value="dynamic:f16")
        marked += 1
    assert marked, f"no node is called {pattern}"
    tree.write(xml)
    return marked


def _store_biases_at_full_size(model: Any, pattern: str) -> None:
    from openvino import opset13

    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "Add" or not re.search(pattern, operation.get_friendly_name()):
            continue
        sources = [operation.input_value(port).get_node() for port in (0, 1)]
        kinds = [source.get_type_name() for source in sources]
        if sorted(kinds) == ["Constant", "MatMul"]:
            port = kinds.index("Constant")
            full = np.broadcast_to(sources[port].get_data(), list(operation.output(0).get_shape()))
            constant = opset13.constant(np.ascontiguousarray(full))
            operation.input(port).replace_source_output(constant.output(0))


def _compile(
    core: Any, xml: Path, hint: str
) -> tuple[Callable[[Inputs], NDArray[np.float32]], dict[str, dict[str, int]]]:
    """A call, and how many nodes of each kind are executed in each precision."""
    config = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": usable_cpus(),
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(core.read_model(xml), "CPU", config)
    counts: dict[str, Counter[str]] = {"f32": Counter(), "bf16": Counter()}
    for operation in compiled.get_runtime_model().get_ops():
        info = {key: operation.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
        if info["layerType"] in _COMPUTING and info["runtimePrecision"] in counts:
            counts[info["runtimePrecision"]][info["layerType"]] += 1
    request = compiled.create_infer_request()

    def run(inputs: Inputs) -> NDArray[np.float32]:
        request.infer(inputs, share_inputs=True)
        return np.array(request.get_output_tensor(0).data, copy=True)

    return run, {precision: dict(sorted(count.items())) for precision, count in counts.items()}


_COMPUTING = ("Convolution", "Deconvolution", "FullyConnected", "Interpolate", "MVN", "Reduce", "Subgraph")
"""Kinds of executed nodes worth counting; an attention is one Subgraph."""


def _onnxruntime(path: Path) -> Callable[[Inputs], NDArray[np.float32]]:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run(None, inputs)[0], np.float32)


if __name__ == "__main__":
    typer.run(main)
