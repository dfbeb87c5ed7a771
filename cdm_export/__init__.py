"""Depth models from PyTorch to verified bundles, and from bundles to metric depth.

>>> import cdm_export
>>> refine = cdm_export.open("d435.bundle")                                # doctest: +SKIP
>>> result = refine(cdm_export.Frame(rgb=rgb, depth=depth_in_meters))      # doctest: +SKIP
>>> result.depth_m                                                         # doctest: +SKIP
"""

from runtimes import (
    CdmExportError,
    DepthPipeline,
    DepthResult,
    Frame,
    Health,
    KnownRange,
    ModelContract,
    Semantics,
    SensorAlignment,
    Size,
    Timing,
    open,
)

__version__ = "0.1.0"

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
