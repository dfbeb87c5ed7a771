"""A specialized network -> one ONNX file (opset 18, static shapes, the design's graph interface)."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cdm_export.onnx.node_names import name_after_modules
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import CONTRACT_KEY, ModelContract

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

OPSET = 18
"""LayerNormalization needs 17; TensorRT 10.3 (JetPack 6.2) reads up to 20."""
OPSET_BF16 = 22
"""The first whose Conv takes BF16; a BF16 file is for OpenVINO and TensorRT >= 10.13."""
_EXTERNAL_FROM = 512 << 20
"""Bytes of weights from which they go to a file beside the graph: protobuf ends at 2 GiB, and a file can be mapped."""


def export_onnx(
    network: "nn.Module",
    contract: ModelContract,
    path: Path,
    *,
    opset: int = OPSET,
    external_data: bool = False,
    change: "Callable[[onnx_ir.Model], None]" = lambda model: None,
) -> dict[str, str]:
    """Write ``path`` (and ``path.data`` for large models, or with ``external_data``).

    ``network`` takes the contract's inputs in order. The contract travels in the file's metadata. ``change`` rewrites
    the graph, its nodes named after their modules, before it is written. Returns the versions of the libraries that
    made it.
    """
    import onnx
    import onnxscript
    import torch

    example = tuple(torch.zeros(spec.shape) for spec in contract.inputs)
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            example,
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in contract.inputs],
            output_names=[spec.name for spec in contract.outputs],
            verbose=False,
        )
    assert program is not None
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxscript": onnxscript.__version__}
    name_after_modules(program.model)
    change(program.model)
    program.model.producer_name = "cdm-export"
    program.model.metadata_props.update(
        {
            CONTRACT_KEY: contract.model_dump_json(),
            **{f"cdm_export.{name}": version for name, version in versions.items()},
        }
    )
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        program.save(path, external_data=external_data or weights >= _EXTERNAL_FROM)
    onnx.checker.check_model(path)
    return versions


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks about operators of packages we do not use and about its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
