"""Kernels that TensorRT for RTX makes of our FP16 graph and of a plain one: ``python -m benchmarks.rtx_layers``.

Its builder runs on a CPU and prints the kernels it chose. That proves acceptance and fusion on this branch of
TensorRT, and nothing about speed, accuracy or other branches. Every export and every build is a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cdm_export.bench.environment import environment
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import BackendCrashed, CdmExportError
from cdm_export.runtimes.host import version_of
from cdm_export.tensorrt.layers import EngineLayer, parse_layers, summarize

MODELS = ("cdm-vits", "cdm-vitl")
CAMERA = Size(640, 480)
RESULT = Path(__file__).parent / "results" / "rtx_layers.json"
PLAIN, OURS = "plain half", "ours"


@dataclass(frozen=True)
class CpuBuild:
    """An engine built without a GPU."""

    layers: tuple[EngineLayer, ...]
    """Its kernels, in order of execution."""
    seconds: float
    """Parsing and building."""
    engine_bytes: int
    """Size of the serialized engine."""
    peak_rss_bytes: int
    """Largest resident memory of the building process."""


def build_on_cpu(onnx: Path, log: Path) -> CpuBuild:
    """Build a strongly typed engine of ``onnx`` and keep the builder's verbose log in ``log``.

    Raises CdmExportError with the parser's or builder's own words, naming nodes; BackendCrashed when the library took
    its process down.
    """
    done = json.loads(_in_process("build", onnx, log))
    layers = parse_layers(log.read_text())
    if not layers:
        raise CdmExportError(f"TensorRT-RTX {done['version']} built {onnx.name}, but its log holds no layer table")
    return CpuBuild(layers, done["seconds"], done["engine_bytes"], done["peak_rss_bytes"])


def _in_process(step: str, *arguments: object) -> str:
    """Run one of ``_STEPS`` in a process of its own; returns the last line it printed."""
    command = [sys.executable, "-m", "benchmarks.rtx_layers", step, *map(str, arguments)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:]) or "no message"
        kind = BackendCrashed if done.returncode < 0 else CdmExportError
        raise kind(f"{step} {arguments[0]} ended with exit code {done.returncode}: {tail}")
    return (done.stdout.splitlines() or [""])[-1]


def _build(onnx: str, log: str) -> None:
    from cdm_export.runtimes.tensorrt_api import Log, load_library
    from cdm_export.tensorrt.builder import BuildPlan, build_engine

    trt = load_library("tensorrt-rtx")
    plan = BuildPlan(
        Path(onnx).resolve(), "fp16", precision_plan=None, workspace=0, optimization_level=3, timing_cache=None
    )
    with Path(log).open("w") as file:
        built = build_engine(trt, plan, Log(lambda severity, message: file.write(f"[{severity}] {message}\n")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "seconds": built.seconds,
        "engine_bytes": len(built.plan),
        "peak_rss_bytes": peak,
        "version": trt.__version__,
    }
    print(json.dumps(result), flush=True)


def _export_plain(model: str, onnx: str) -> None:
    """What anyone would do: ``network.half()`` in its original form, half inputs, no rewrite.

    Nodes are named after modules, which changes no kernel.
    """
    import torch

    from cdm_export.onnx.node_names import name_after_modules
    from cdm_export.reference_model.random_weights import seeded_network
    from cdm_export.reference_model.registry import get_variant

    variant = get_variant(model)
    contract = variant.contract(model, CAMERA)
    network = variant.exportable(seeded_network(variant, 0), contract.channel_order).eval().half()
    program = torch.onnx.export(
        network,
        tuple(torch.zeros(spec.shape, dtype=torch.float16) for spec in contract.inputs),
        dynamo=True,
        opset_version=18,
        input_names=[spec.name for spec in contract.inputs],
        output_names=[spec.name for spec in contract.outputs],
        verbose=False,
    )
    assert program is not None
    name_after_modules(program.model)
    program.save(onnx, external_data=True)


def export_half(model: str, onnx: str, camera: str = str(CAMERA), input_size: str = "518") -> None:
    """Our form in plain half: every rewrite, float32 at the interface, no float32 islands but the casts.

    A stand-in for ``onnx/fp16.onnx`` of a bundle, and quick.
    """
    from cdm_export.onnx.convert import export_onnx
    from cdm_export.reference_model.random_weights import seeded_network
    from cdm_export.reference_model.registry import get_variant
    from cdm_export.transforms import specialize_for

    variant = get_variant(model)
    contract = variant.contract(model, Size.parse(camera), int(input_size))
    network = variant.exportable(seeded_network(variant, 0), contract.channel_order).eval()
    specialize_for(contract, network)
    network.half()
    network.register_forward_pre_hook(lambda module, inputs: tuple(tensor.half() for tensor in inputs))
    network.register_forward_hook(lambda module, inputs, output: output.float())
    export_onnx(network, contract, Path(onnx))


_STEPS = {"plain": _export_plain, "half": export_half, "build": _build}


def _measure(onnx: Path, form: str, folder: Path) -> dict[str, Any]:
    built = build_on_cpu(onnx, folder / "build.log")
    return {
        "form": form,
        **summarize(built.layers).model_dump(mode="json"),
        "build_seconds": round(built.seconds, 1),
        "engine_bytes": built.engine_bytes,
        "build_peak_rss_bytes": built.peak_rss_bytes,
    }


def main(
    model: Annotated[list[str] | None, typer.Option(help="Only these; the others' rows stay.")] = None,
    bundles: Annotated[
        Path | None, typer.Option(help="Folder with MODEL.bundle: their onnx/fp16.onnx instead of the stand-in.")
    ] = None,
) -> None:
    """Export, build and write ``results/rtx_layers.json``."""
    rows = json.loads(RESULT.read_text())["models"] if model and RESULT.exists() else {}
    for name in model or MODELS:
        with tempfile.TemporaryDirectory(prefix="rtx-layers-") as temporary:
            folder = Path(temporary)
            plain, ours = folder / "plain.onnx", folder / "half.onnx"
            _in_process("plain", name, plain)
            rows[name] = {PLAIN: _measure(plain, "network.half(), original form", folder)}
            for file in folder.iterdir():  # gigabytes, for the large model
                file.unlink()
            form = "rewritten, .half(), float32 at the interface"
            if bundles is not None:
                ours, form = bundles / f"{name}.bundle" / "onnx" / "fp16.onnx", "fp16.onnx of the bundle"
            else:
                _in_process("half", name, ours)
            rows[name][OURS] = _measure(ours, form, folder)
        print({form: row["kernels"] for form, row in rows[name].items()})
        result = {
            "what": f"kernels TensorRT-RTX builds on a CPU, camera {CAMERA}, seeded weights, strongly typed",
            "tensorrt_rtx": version_of("tensorrt_rtx_cu13_libs"),
            "models": rows,
            "environment": environment(),
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


def rtx_layers() -> str:
    """Markdown table of the committed result."""
    result = json.loads(RESULT.read_text())
    rows = [
        f"| TensorRT-RTX {result['tensorrt_rtx']}, built on a CPU | kernels | streams | fused attention "
        "| of it in the encoders | float32 products | engine |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, forms in result["models"].items():
        for name, row in forms.items():
            encoder = sum(".blocks." in module for module in row["attention"])
            rows.append(
                f"| {model}, {name}: {row['form']} | {row['kernels']} | {row['streams']} | {len(row['attention'])} "
                f"| {encoder} | {', '.join(row['float32_products']) or 'none'} | {row['engine_bytes'] / 1e6:.0f} MB |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in _STEPS:
        _STEPS[sys.argv[1]](*sys.argv[2:])
    else:
        typer.run(main)
