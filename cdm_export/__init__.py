"""Depth models from PyTorch to verified bundles, and from bundles to metric depth.

>>> import cdm_export
>>> model = cdm_export.open("d435.bundle")                                # doctest: +SKIP
>>> result = model(cdm_export.Frame(rgb=rgb, depth=depth_in_meters))      # doctest: +SKIP
>>> result.depth_m                                                        # doctest: +SKIP

Names are loaded when they are used: importing this package loads neither NumPy nor OpenCV.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdm_export.runtimes.calibration import Distortion, Intrinsics, StereoCalibration
    from cdm_export.runtimes.calibration_files import read_calibration, write_calibration
    from cdm_export.runtimes.contract import ModelContract, Semantics, Size
    from cdm_export.runtimes.errors import CdmExportError
    from cdm_export.runtimes.frame import DepthResult, Frame, Health, Timing
    from cdm_export.runtimes.metric_scale import KnownRange, SensorAlignment, to_meters
    from cdm_export.runtimes.opening import open
    from cdm_export.runtimes.pipeline import DepthPipeline

__version__ = "0.2.0"

_MODULES = {
    "CdmExportError": "errors",
    "DepthPipeline": "pipeline",
    "DepthResult": "frame",
    "Distortion": "calibration",
    "Frame": "frame",
    "Health": "frame",
    "Intrinsics": "calibration",
    "KnownRange": "metric_scale",
    "ModelContract": "contract",
    "Semantics": "contract",
    "SensorAlignment": "metric_scale",
    "Size": "contract",
    "StereoCalibration": "calibration",
    "Timing": "frame",
    "open": "opening",
    "read_calibration": "calibration_files",
    "to_meters": "metric_scale",
    "write_calibration": "calibration_files",
}
"""Public name -> module of ``cdm_export.runtimes`` that defines it."""

__all__ = [
    "CdmExportError",
    "DepthPipeline",
    "DepthResult",
    "Distortion",
    "Frame",
    "Health",
    "Intrinsics",
    "KnownRange",
    "ModelContract",
    "Semantics",
    "SensorAlignment",
    "Size",
    "StereoCalibration",
    "Timing",
    "open",
    "read_calibration",
    "to_meters",
    "write_calibration",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'cdm_export' has no attribute '{name}'")
    value = getattr(import_module(f"cdm_export.runtimes.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
