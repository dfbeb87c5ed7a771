"""What a model's tensors mean: everything a device needs to know besides the artifact itself.

The contract is written into the bundle's manifest. Processing is chosen from a closed set of primitives
(``runtimes/processing``), never from code in the bundle.
"""

import re
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cdm_export.runtimes.errors import InputError

CONTRACT_KEY = "cdm_export.contract"
"""Key of the contract, as JSON, in an artifact's own metadata."""
DEFAULT_FAR = 25.0
"""Meters. A pixel farther than this is invalid; the reference implementation's widest clip."""
MOST_METERS = 100_000.0
"""No depth is farther: a limit beyond it is a slip, and its inverse would leave float32's digits."""
LARGEST_SIDE = 16384
"""Pixels of an image, and elements of any axis of a tensor."""

Precision = Literal[
    "fp32",
    "fp16",
    "fp16-attn32",
    "tf32",
    "bf16",
    "int8",
    "int8-fp16",
    "int8-bf16",
    "fp16-image",
    "fp16-w8",
    "fp16-p8",
    "fp16-p6",
    "fp16-p4",
    "fp16-w8a8",
]
"""Precision of an artifact or of its execution, and name of the gate it has to pass."""

INTEGER: tuple[Precision, ...] = ("int8", "int8-fp16", "int8-bf16")
"""Products of 8-bit integers; what is not quantized is FP32, FP16 or BF16."""
IMAGE: Precision = "fp16-image"
"""Half behind an 8-bit image: what an app feeds."""
COMPRESSED: tuple[Precision, ...] = ("fp16-w8", "fp16-p8", "fp16-p6", "fp16-p4")
"""Half with compressed weights: 8-bit integers per channel, palettes of 8, 6 or 4 bits."""
QUANTIZED: Precision = "fp16-w8a8"
"""Half whose layers read 8-bit activations and have 8-bit weights."""


def execution_name(precision: str, batch: int) -> str:
    """How an artifact or its execution is called: ``fp16``, or ``fp16-b4`` where four frames go in at once."""
    return precision if batch == 1 else f"{precision}-b{batch}"


class Size(NamedTuple):
    """Image size in pixels; printed and parsed as ``WIDTHxHEIGHT``."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> "Size":
        """``"640x480"`` -> ``Size(640, 480)``. Raises InputError for anything else, and for a side out of bounds."""
        match = re.fullmatch(r"([0-9]{1,5})[xX*]([0-9]{1,5})", text.strip())
        if not match or not all(1 <= int(side) <= LARGEST_SIDE for side in match.groups()):
            raise InputError(
                f"'{text}' is not an image size: expected WIDTHxHEIGHT, for example 640x480, "
                f"up to {LARGEST_SIDE}x{LARGEST_SIDE}"
            )
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, image: NDArray[Any]) -> "Size":
        """Size of an array of shape [H, W, ...]."""
        return cls(image.shape[1], image.shape[0])


def _bounded(size: Size) -> Size:
    if not all(1 <= side <= LARGEST_SIDE for side in size):
        raise ValueError(f"an image is from 1x1 to {LARGEST_SIDE}x{LARGEST_SIDE} pixels")
    return size


class Semantics(str, Enum):
    """What the numbers of the output are."""

    INVERSE_DEPTH = "inverse_depth"
    RELATIVE_INVERSE_DEPTH = "relative_inverse_depth"
    METRIC_DEPTH = "metric_depth"
    DISPARITY = "disparity"

    @property
    def unit(self) -> str:
        """Unit of the raw network output; empty when it has none."""
        return {"inverse_depth": "1/m", "metric_depth": "m", "disparity": "px"}.get(self.value, "")


class Record(BaseModel):
    """Base of everything written to JSON: frozen, unknown keys refused.

    A field whose name on disk is older than its name here says so with an alias; both are read, the alias is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class TensorSpec(Record):
    """One input or output of the graph."""

    name: str
    """Name in the artifact, the same in every backend."""
    shape: tuple[Annotated[int, Field(ge=1, le=LARGEST_SIDE)], ...]
    """Static shape, [B, C, H, W]."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Element type at the interface, whatever the precision inside; ``uint8`` is an image of 8 bits."""
    unit: str
    """Unit and range in words, e.g. ``1/m, 0 = invalid``."""


class ModelContract(Record):
    """Everything the device needs to turn a frame into depth with an artifact of this bundle."""

    model: str
    """Registry name of family and variant, e.g. ``cdm-vits``."""
    semantics: Semantics
    """What the output means."""
    inputs: tuple[TensorSpec, ...]
    """Graph inputs in order."""
    outputs: tuple[TensorSpec, ...]
    """Graph outputs in order."""
    camera: Annotated[Size, AfterValidator(_bounded)]
    """Size of the frames this bundle was made for, and of the result."""
    network: Annotated[Size, AfterValidator(_bounded)]
    """Size of the network's input."""
    input_size: int = Field(gt=0, le=LARGEST_SIDE)
    """Lower bound of the network's sides that ``network`` was derived from, pixels."""
    channel_order: Literal["bgr", "rgb"]
    """Plane order the weights were trained with; folded into the weights, the interface is always RGB."""
    image_resize: Literal["cubic", "cubic_8bit"] = "cubic"
    """How the color image becomes a network input (``processing/image.py``)."""
    depth_input: Literal["inverse_nearest"] | None = "inverse_nearest"
    """How sensor depth becomes a network input (``processing/depth.py``); None when the model takes none."""
    output_resize: Literal["nearest", "bilinear", "bilinear_corners"] = "nearest"
    """Resize of the network output to camera size (``processing/output.py``)."""
    max_depth: float = Field(default=6.0, gt=0, le=MOST_METERS, allow_inf_nan=False)
    """Meters. Sensor readings beyond this are treated as missing."""
    far: float = Field(default=DEFAULT_FAR, gt=0, le=MOST_METERS, allow_inf_nan=False)
    """Meters. Depth beyond this is invalid; without meaning for output that is not metric."""

    @property
    def batch(self) -> int:
        """Frames that go in at once."""
        return self.inputs[0].shape[0]

    def batched(self, batch: int) -> "ModelContract":
        """The same contract for ``batch`` frames at once."""

        def resized(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(spec.model_copy(update={"shape": (batch, *spec.shape[1:])}) for spec in specs)

        return self.model_copy(update={"inputs": resized(self.inputs), "outputs": resized(self.outputs)})

    @property
    def metric(self) -> bool:
        """Whether the result can be given in meters."""
        return self.semantics in (Semantics.INVERSE_DEPTH, Semantics.METRIC_DEPTH)
