"""What ships to the device: contracts, bundles, processing and one file per backend."""

from runtimes.contract import ModelContract, Semantics, Size
from runtimes.errors import CdmExportError
from runtimes.frame import DepthResult, Frame, Health, Timing
from runtimes.metric_scale import KnownRange, SensorAlignment
from runtimes.opening import open
from runtimes.pipeline import DepthPipeline

__all__ = [
    "CdmExportError",
    "DepthPipeline",
    "DepthResult",
    "Frame",
    "Health",
    "KnownRange",
    "ModelContract",
    "Semantics",
    "SensorAlignment",
    "Size",
    "Timing",
    "open",
]
