"""What to export."""

from dataclasses import dataclass
from pathlib import Path

from cdm_export.coreml.exporter import CoremlRequest
from cdm_export.quantize.exporter import Int8Request
from cdm_export.reference_model.config import ChannelOrder
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.graph_precision import LowPrecision


@dataclass(frozen=True)
class ExportRequest:
    """What to export; defaults are the reference implementation's."""

    out: Path
    """Bundle to make."""
    camera: Size
    """Size of the camera's frames."""
    checkpoint: Path | None = None
    """Checkpoint file, ``FILE#KEY`` for one of its sets of weights; or ``random_weights``; or neither, for a model
    whose weights ship with the package."""
    random_weights: int | None = None
    """Seed of random weights; or ``checkpoint``."""
    model: str | None = None
    """Registry name; None to read it off the checkpoint."""
    frames: str = "sample"
    """Source of the frames parity is measured on."""
    depth_scale: float | None = None
    """Sensor units per meter of those frames; None for millimeters."""
    fit: bool = False
    """Crop and resize frames of another size."""
    input_size: int | None = None
    """What the sizing rule of the network starts from, pixels; None for the variant's own."""
    preprocessing: str | None = None
    """Program whose processing of images is followed (``Variant.preprocessings``); None for the usual one."""
    aspect: bool = False
    """Keep the camera's aspect where that processing makes a square otherwise."""
    channel_order: ChannelOrder | None = None
    """Of CDM ``bgr`` as the reference implementation runs its weights, ``rgb`` without its channel swap; None for the
    variant's own."""
    max_depth: float | None = None
    """Meters; sensor readings beyond are missing; None for 6. Only for models that read sensor depth."""
    far: float | None = None
    """Meters; depth beyond is invalid; None for the variant's own."""
    head_range: float | None = None
    """Meters that the largest output of a metric head means; None for the variant's own."""
    iterations: int | None = None
    """Updates of a recurrent network; None for the variant's own."""
    low_precisions: tuple[LowPrecision, ...] = ("fp16",)
    """Graphs to make beside FP32; ``bf16`` has opset 22 and is a candidate until something with BF16 has run it."""
    batch: int = 1
    """Frames at once of a second FP32 and a second FP16 graph; 1 makes none."""
    overwrite: bool = False
    """Replace an existing bundle."""
    coreml: CoremlRequest | None = None
    """Core ML packages to make beside ONNX; None makes none."""
    int8: Int8Request | None = None
    """INT8 graphs to make beside the others; None makes none."""
