"""A bundle around a graph of two nodes whose output tells which bundle it is of: opened in milliseconds."""

import shutil
from pathlib import Path

import numpy as np

from cdm_export import publish
from cdm_export.runtimes.bundle import MANIFEST, Artifact, Golden, Manifest, Provenance, State
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.pipeline import DepthPipeline
from parity_tests.engine_bundle import SIDE, contract

_FAR = 20.0


def make_tiny(path: Path, number: int) -> Path:
    """The depth is ``number`` meters everywhere, and the manifest says so too: ``far`` is ``number`` + 20 m."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (path / "onnx").mkdir(parents=True)
    golden = path / "golden.npz"
    np.savez(golden, number=np.array(number))
    specs = contract()
    values = {
        spec.name: helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)
        for spec in (*specs.inputs, *specs.outputs)
    }
    constants = {"zero": np.zeros(1, np.float32), "answer": np.array([1 / number], np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["inverse_depth", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "answer"], ["inverse_depth_refined"]),
        ],
        "tiny",
        [values["image"], values["inverse_depth"]],
        [values["inverse_depth_refined"]],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    file = path / "onnx" / "fp32.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    artifact = Artifact(
        name="onnx/fp32", format="onnx", precision="fp32", opset=18, main="onnx/fp32.onnx",
        files=(publish.record(path, file),), producers={}, rewrites={}, state=State.PUBLISHED,
    )  # fmt: skip
    manifest = Manifest(
        schema_version=1, name=f"number {number}", created="2026-01-01T00:00:00+00:00", producer="cdm-export 0.2.0",
        contract=specs.model_copy(update={"far": _FAR + number}),
        provenance=Provenance(checkpoint="tiny.pt", sha256="0" * 64, random_weights=None, license=""),
        artifacts=(artifact,),
        golden=(Golden(name="only", file=publish.record(path, golden)),), reports=(),
    )  # fmt: skip
    (path / MANIFEST).write_text(manifest.model_dump_json())
    return path


def replace(target: Path, other: Path) -> None:
    """Put a copy of ``other`` in the place of ``target``, as ``export --overwrite`` does."""
    copy = target.with_name(f".{target.name}.next")
    shutil.copytree(other, copy)
    publish.put_in_place(copy, target)


def told(pipeline: DepthPipeline) -> tuple[int, int]:
    """Which bundle the graph that runs is of, and which one the manifest that vouches for it."""
    frame = Frame(rgb=np.zeros((SIDE, SIDE, 3), np.uint8), depth=np.ones((SIDE, SIDE), np.float32))
    return round(float(np.median(pipeline(frame).depth_m))), round(pipeline.contract.far - _FAR)
