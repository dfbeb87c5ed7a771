"""A bundle by hand, with one attention, one convolution and one float32 island: its engine is built in a second."""

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from cdm_export import publish
from cdm_export.parity.check_backend import BackendParity
from cdm_export.runtimes import engines, local_results, nvidia
from cdm_export.runtimes.bundle import MANIFEST, Artifact, Bundle, Golden, Manifest, Provenance, State, Verdict
from cdm_export.runtimes.contract import ModelContract, Processing, Semantics, Size, Sizing, TensorSpec
from cdm_export.runtimes.graph_precision import Island, IslandKind, PrecisionPlan
from cdm_export.runtimes.measure import measure
from cdm_export.tensorrt import build

SIDE, HEADS = 64, 2
TYPING = PrecisionPlan(
    precision="fp16",
    islands=(Island(kind=IslandKind.DECLARED, module="head.conv", reason="the last convolution", output_dtype="fp32"),),
    residuals={},
    inputs={},
)


def contract() -> ModelContract:
    def plane(name: str, channels: int, unit: str, **made: object) -> TensorSpec:
        return TensorSpec(name=name, shape=(1, channels, SIDE, SIDE), unit=unit, **made)

    image = {"source": "rgb", "processing": Processing(resize="cubic", normalization="unit")}
    depth = {"source": "depth", "processing": Processing(resize="nearest", normalization="inverse_depth")}

    return ModelContract(
        model="cdm-vitt",
        semantics=Semantics.INVERSE_DEPTH,
        inputs=(plane("image", 3, "RGB, 0..1", **image), plane("inverse_depth", 1, "1/m, 0 = invalid", **depth)),
        outputs=(plane("inverse_depth_refined", 1, "1/m"),),
        camera=Size(SIDE, SIDE),
        network=Size(SIDE, SIDE),
        content=Size(SIDE, SIDE),
        sizing=Sizing(rule="camera", multiple=1),
        input_size=SIDE,
        channel_order="rgb",
    )


def write_graph(path: Path, low: str = "FLOAT16", operator: str = "Softmax") -> None:
    """Attention over depth in ``low``, a float32 convolution of the image added to it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = getattr(TensorProto, low)
    rng = np.random.default_rng(0)
    weights = {
        "split": np.array([1, HEADS, SIDE, SIDE // HEADS], np.int64),
        "join": np.array([1, 1, SIDE, SIDE], np.int64),
        "head.conv.weight": rng.normal(size=(1, 3, 3, 3)).astype(np.float32),
    }
    name = "blocks.0.attn.core"
    nodes = [
        helper.make_node("Cast", ["inverse_depth"], ["low"], "in/Cast", to=kind),
        helper.make_node("Reshape", ["low", "split"], ["q"], f"{name}/Reshape"),
        helper.make_node("Transpose", ["q"], ["k"], f"{name}/Transpose", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "k"], ["scores"], f"{name}/MatMul"),
        helper.make_node(operator, ["scores"], ["shares"], f"{name}/{operator}", axis=-1),
        helper.make_node("MatMul", ["shares", "q"], ["mixed"], f"{name}/MatMul_1"),
        helper.make_node("Reshape", ["mixed", "join"], ["plane"], f"{name}/Reshape_1"),
        helper.make_node("Cast", ["plane"], ["wide"], "out/Cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", "head.conv.weight"], ["color"], "head.conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["wide", "color"], ["sum"], "head/Add"),
        helper.make_node("Relu", ["sum"], ["inverse_depth_refined"], "head/Relu"),
    ]
    specs = contract()
    values = {
        spec.name: helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)
        for spec in (*specs.inputs, *specs.outputs)
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [values["image"], values["inverse_depth"]],
        [values["inverse_depth_refined"]],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


UNFUSED = Island(
    kind=IslandKind.UNFUSED_ATTENTION, module="blocks.0.attn.core", reason="workaround", output_dtype="low"
)  # fmt: skip
ATTENTION_IN_FLOAT32 = TYPING.model_copy(update={"islands": (*TYPING.islands, UNFUSED)})


def bundle_of(path: Path, graph: Path, model: ModelContract) -> Bundle:
    """A bundle around a half graph of a real model; its float32 one is only there to be listed."""
    bundle = make_bundle(path)
    for name in ("fp16", "fp32"):
        shutil.copyfile(graph, path / "onnx" / f"{name}.onnx")
    artifacts = tuple(
        artifact.model_copy(
            update={
                "files": (publish.record(path, path / artifact.main),),
                "precision_plan": artifact.precision_plan and TYPING.model_copy(update={"islands": ()}),
            }
        )
        for artifact in bundle.manifest.artifacts
        if artifact.precision != "fp16-attn32"
    )
    manifest = bundle.manifest.model_copy(update={"artifacts": artifacts, "contract": model})
    (path / "onnx" / "fp16-attn32.onnx").unlink()
    (path / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return Bundle.open(path)


def make_bundle(path: Path, states: dict[str, State] | None = None, **changed: str) -> Bundle:
    """``fp32``, ``fp16`` and ``fp16-attn32`` (computed like fp32 here). ``states``: other than published, by precision.
    ``changed``: of the fp16 graph, see ``write_graph``.
    """
    (path / "onnx").mkdir(parents=True)
    (path / "golden").mkdir()
    golden = path / "golden" / "000.npz"
    plane = np.full((1, 1, SIDE, SIDE), 0.5, np.float32)
    np.savez(golden, image=np.zeros((1, 3, SIDE, SIDE), np.float32), inverse_depth=plane, raw_output=plane)
    artifacts = []
    for precision, low in (("fp32", "FLOAT"), ("fp16", "FLOAT16"), ("fp16-attn32", "FLOAT")):
        file = path / "onnx" / f"{precision}.onnx"
        write_graph(file, **({"low": low, **changed} if precision == "fp16" else {"low": low}))
        artifacts.append(
            Artifact(
                name=f"onnx/{precision}",
                format="onnx",
                precision=precision,  # type: ignore[arg-type]
                opset=18,
                main=f"onnx/{file.name}",
                files=(publish.record(path, file),),
                producers={},
                rewrites={},
                precision_plan={"fp32": None, "fp16": TYPING, "fp16-attn32": ATTENTION_IN_FLOAT32}[precision],
                state=(states or {}).get(precision, State.PUBLISHED),
            )
        )
    manifest = Manifest(
        schema_version=1,
        name=f"{path.parent.name} {path.name}",  # another identity in every test, so another folder in the cache
        created="2026-01-01T00:00:00+00:00",
        producer="cdm-export 0.1.0",
        contract=contract(),
        provenance=Provenance(checkpoint="tiny.pt", sha256="0" * 64, random_weights=None, license=""),
        artifacts=tuple(artifacts),
        golden=(Golden(name="only", file=publish.record(path, golden)),),
        reports=(),
    )
    (path / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return Bundle.open(path)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is told of a GPU; nothing must be run on it."""
    gpu = nvidia.Gpu(name="Test", compute_capability="8.9", integrated=False, memory=1, cuda="13.0")
    for place in (build, engines, local_results):
        monkeypatch.setattr(place, "gpu_or_none", lambda: gpu)
    monkeypatch.setattr(build, "free_memory", lambda gpu: 0)
    monkeypatch.setattr("cdm_export.runtimes.cuda_memory.require_cuda", lambda: None)


def self_test(backend: str, precision: str, outcome: Literal["passed", "failed"]) -> BackendParity:
    """What ``check_backend`` would say."""
    verdict = Verdict(
        backend=backend, verdict=outcome, reason="" if outcome == "passed" else "p99 too large", frames=1,
        mean=1e-7, p99=1e-7, max=1e-7, mean_mm=1e-4, reference="r",
    )  # fmt: skip
    return BackendParity(
        backend=backend, precision=precision, description={}, verdict=verdict, frames=(),
        latency=measure({"x": lambda: None}, budget=0)["x"],
    )  # fmt: skip
