"""The formats of an export, in the order they are made: a later one may build on what earlier ones left.

A new format is one package with an ``Exporter`` and one entry here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cdm_export.coreml.exporter import CoremlExporter
from cdm_export.exporter import Exporter
from cdm_export.onnx.exporter import OnnxExporter
from cdm_export.quantize.exporter import Int8Exporter

if TYPE_CHECKING:
    from cdm_export.export.request import ExportRequest


def _int8(request: "ExportRequest") -> Exporter | None:
    return None if request.int8 is None else Int8Exporter(request.int8)


def _coreml(request: "ExportRequest") -> Exporter | None:
    if request.coreml is None:
        return None
    return CoremlExporter(request.coreml, request.low_precisions, request.batch)


FORMATS: dict[str, "Callable[[ExportRequest], Exporter | None]"] = {
    "onnx": lambda request: OnnxExporter(request.low_precisions, request.batch),
    "int8": _int8,
    "coreml": _coreml,
}
"""By name: the exporter of a request, None where it does not ask for the format."""


def exporters_of(request: "ExportRequest") -> list[Exporter]:
    """The exporters that a request asks for, in order."""
    made = (make(request) for make in FORMATS.values())
    return [exporter for exporter in made if exporter is not None]
