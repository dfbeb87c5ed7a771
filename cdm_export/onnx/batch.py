"""The graph for several frames at once: exported anew for its shapes, with the weights of the one-frame graph."""

import hashlib
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_export.onnx.convert import OPSET, export_onnx
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import ModelContract

if TYPE_CHECKING:
    from torch import nn


def export_batch(network: "nn.Module", contract: ModelContract, path: Path, single: Path) -> dict[str, str]:
    """Write ``path`` for the batch of ``contract``; ``single`` is the graph of the same network for one frame, with
    its weights beside it. Returns the versions of the libraries that made it.
    """
    versions = export_onnx(network, contract, path, opset=OPSET, external_data=True)
    _share_weights(path, single)
    return versions


def _share_weights(target: Path, source: Path) -> None:
    """Both lie in one folder. What ``target`` has and ``source`` has not goes into the graph itself: shapes, mostly."""
    import onnx.external_data_helper

    external: Any = onnx.external_data_helper  # its annotations say that offsets are None
    model = onnx.load(target, load_external_data=False)
    theirs = onnx.load(source, load_external_data=False).graph.initializer
    places: dict[bytes, tuple[int, int]] = {}
    own, shared = target.with_name(f"{target.name}.data"), source.with_name(f"{source.name}.data")
    with shared.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for tensor in theirs:
            if tensor.external_data:
                place = external.ExternalDataInfo(tensor)
                content = data[place.offset : place.offset + place.length]
                places[_digest(content)] = (place.offset, place.length)
    with own.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for tensor in model.graph.initializer:
            if not tensor.external_data:
                continue
            place = external.ExternalDataInfo(tensor)
            tensor.raw_data = data[place.offset : place.offset + place.length]
            if there := places.get(_digest(tensor.raw_data)):
                external.set_external_data(tensor, shared.name, *there)
                tensor.ClearField("raw_data")
            else:
                tensor.data_location = onnx.TensorProto.DEFAULT
                tensor.ClearField("external_data")
    own.unlink()
    with naming(target):
        onnx.save(model, target)
    onnx.checker.check_model(target)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
