"""An ONNX artifact through any backend that runs ONNX: stages become outputs of a temporary graph."""

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdm_export.bisect.onnx_worker import ShowJob, show
from cdm_export.bisect.probe import Shapes, exposing
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import CONTRACT_KEY, ModelContract
from cdm_export.runtimes.errors import BundleError, InputError

if TYPE_CHECKING:
    import onnx


class OnnxProbe:
    """One artifact, one backend, one frame. Every ``outputs`` writes a graph and runs it in a process of its own."""

    def __init__(
        self,
        artifact: Path,
        contract: ModelContract,
        backend: str,
        precision: str,
        frame: Path,
        scratch: Path,
        threads: int = 0,
    ) -> None:
        """``frame``: npz with the inputs by name. ``scratch``: folder that outlives the arrays this hands out."""
        self.name = f"{backend} {precision}"
        self._artifact = artifact
        self._contract = contract
        self._backend = backend
        self._precision = precision
        self._frame = frame
        self._scratch = scratch
        self._threads = threads
        self._queries = 0

    @cached_property
    def stages(self) -> Shapes:
        """Every floating-point value of the graph whose shape is known."""
        return {name: shape for name, (_, shape) in _values(_graph_only(self._artifact)).items()}

    def outputs(self, stages: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Raises InputError for a stage that the graph does not have, and what the backend raises."""
        folder = self._scratch / f"{self._backend}-{self._precision}-{self._queries:03d}"
        self._queries += 1
        folder.mkdir()
        model = folder / self._artifact.name
        contract = exposing(self._contract, stages, self._shapes_of(stages))
        linked = write_exposing(self._artifact, contract, model)
        job = ShowJob(
            backend=self._backend,
            path=str(model),
            contract=contract,
            precision=self._precision,
            threads=self._threads,
            frame=str(self._frame),
            folder=str(folder),
        )
        try:
            files = show(job)
        finally:
            for file in (model, *linked):
                file.unlink()
        return {name: np.load(files[name], mmap_mode="r", allow_pickle=False) for name in stages}

    def _shapes_of(self, stages: Sequence[str]) -> Shapes:
        missing = [name for name in stages if name not in self.stages]
        if missing:
            raise InputError(f"{self._artifact.name} has no value named '{missing[0]}'", "Export the bundle again.")
        return self.stages


def write_exposing(artifact: Path, contract: ModelContract, target: Path) -> list[Path]:
    """Write the artifact's graph with the contract's outputs, float32, added where it does not have them.

    Weights beside the artifact are copied beside ``target``; these files are returned. ONNX Runtime follows no symbolic
    links there, and a hard link would touch the original, which is watched. Raises BundleError for weights outside the
    artifact's folder.
    """
    import onnx

    model = _graph_only(artifact)
    values = _values(model)
    graph = model.graph
    present = {output.name for output in graph.output}
    for spec in contract.outputs:
        if spec.name in present:
            continue
        kind, shape = values[spec.name]
        if kind != onnx.TensorProto.FLOAT:
            _widen(model, spec.name)
        graph.output.append(onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, shape))
    for entry in model.metadata_props:
        if entry.key == CONTRACT_KEY:
            entry.value = contract.model_dump_json()
    with naming(target):
        onnx.save(model, target)
    return [_copied(artifact, location, target.parent) for location in sorted(_locations(model))]


def _graph_only(artifact: Path) -> "onnx.ModelProto":
    import onnx

    return onnx.load(artifact, load_external_data=False)


def _values(model: "onnx.ModelProto") -> dict[str, tuple[int, tuple[int, ...]]]:
    """Name -> element type and shape, of floating-point values with a static shape."""
    from onnx import TensorProto

    floating = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    made = {name for node in model.graph.node for name in node.output}
    found = {}
    for value in (*model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        static = all(dimension.HasField("dim_value") for dimension in kind.shape.dim)
        if value.name in made and kind.elem_type in floating and kind.HasField("shape") and static:
            found[value.name] = (kind.elem_type, tuple(dimension.dim_value for dimension in kind.shape.dim))
    return found


def _widen(model: "onnx.ModelProto", name: str) -> None:
    """A value of lower precision gets another name, and its own goes to a float32 copy for the output."""
    import onnx

    inside = f"{name}/typed"
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, value in enumerate(names):
                if value == name:
                    names[index] = inside
    for info in model.graph.value_info:
        if info.name == name:
            info.name = inside
    model.graph.node.append(onnx.helper.make_node("Cast", [inside], [name], f"{name}/shown", to=onnx.TensorProto.FLOAT))


def _locations(model: "onnx.ModelProto") -> set[str]:
    from onnx import TensorProto

    return {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _copied(artifact: Path, location: str, folder: Path) -> Path:
    if Path(location).name != location:
        raise BundleError(f"{artifact.name} wants its weights from '{location}', outside its folder")
    source, target = (artifact.parent / location).resolve(), folder / location
    shutil.copyfile(source, target)
    return target
