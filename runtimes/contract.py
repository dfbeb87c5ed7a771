"""What a model's tensors mean: everything a device needs to know besides the artifact itself.

The contract is written into the bundle's manifest. Processing is chosen from a closed set of primitives
(``runtimes/processing``), never from code in the bundle.
"""

import re
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


class ErrorClass(str, Enum):
    """What an error of the output is measured in, and so which column of the gates it has to pass."""

    RELATIVE = "relative"
    """To the reference's depth, in meters."""
    RANGE = "range"
    """A share of the reference's range: scale and shift of the values mean nothing."""
    PIXELS = "pixels"
    """Absolute, pixels of the network's image."""


class Semantics(str, Enum):
    """What the numbers of the output are."""

    INVERSE_DEPTH = "inverse_depth"
    RELATIVE_INVERSE_DEPTH = "relative_inverse_depth"
    METRIC_DEPTH = "metric_depth"
    DISPARITY = "disparity"
    """Column in the left image minus column in the right one: pixels of the network's image, above 0 for what is in
    front of the cameras."""

    @property
    def unit(self) -> str:
        """Unit of the raw network output; empty when it has none."""
        return {"inverse_depth": "1/m", "metric_depth": "m", "disparity": "px"}.get(self.value, "")

    @property
    def error_class(self) -> ErrorClass:
        """How its error is measured."""
        if self is Semantics.DISPARITY:
            return ErrorClass.PIXELS
        return ErrorClass.RANGE if self is Semantics.RELATIVE_INVERSE_DEPTH else ErrorClass.RELATIVE


class Record(BaseModel):
    """Base of everything written to JSON: frozen, unknown keys refused.

    A field whose name on disk is older than its name here says so with an alias; both are read, the alias is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


RESERVED = frozenset(
    ("rgb", "right", "depth_scale", "raw_depth", "raw_output", "depth", "valid", "rounded_fp16", "rounded_bf16")
)
"""What a reference frame holds beside the network's inputs, by name."""

Source = Literal["rgb", "right", "depth"]
"""Part of a ``Frame`` that an input is made of."""


class Processing(Record):
    """How an input is made of its part of the frame; every choice is a primitive of ``runtimes/processing``."""

    resize: Literal["cubic", "bilinear", "lanczos", "nearest"]
    """Kernel. Images: ``cubic`` (OpenCV's), ``bilinear`` (half-pixel centers) or ``lanczos`` (Pillow's of 8-bit images,
    which rounds to levels along each axis); depth: ``nearest``, which invents no reading."""
    antialias: bool = False
    """Whether the kernel widens when the image shrinks, as in PyTorch's ``interpolate(antialias=True)``."""
    normalization: Literal["unit", "levels", "inverse_depth", "meters"]
    """Numbers of an image: ``unit`` 0..1, ``levels`` 0..255 as they are; of depth: ``inverse_depth`` 1/m or ``meters``,
    0 where there is no usable reading. A network's own mean and deviation are part of its graph."""
    padding: Literal["zero", "edge"] = "zero"
    """What lies beside the frame's part where the network is larger: zeros, or its border repeated."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Order of the axes."""

    @property
    def of_image(self) -> bool:
        """Whether it makes numbers of an image, not of depth."""
        return self.normalization in ("unit", "levels")


class TensorSpec(Record):
    """One input or output of the graph."""

    name: str
    """Name in the artifact, the same in every backend."""
    shape: tuple[Annotated[int, Field(ge=1, le=LARGEST_SIDE)], ...]
    """Static shape, [B, C, H, W] or as ``processing.layout`` says."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Element type at the interface, whatever the precision inside; ``uint8`` is an image of 8 bits."""
    unit: str
    """Unit and range in words, e.g. ``1/m, 0 = invalid``."""
    source: Source | None = None
    """What an input is made of; None for outputs."""
    processing: Processing | None = None
    """How; None for outputs."""


class Sizing(Record):
    """How the network's size follows from the camera's; one geometry for all inputs and the output."""

    rule: Literal["lower_bound", "camera", "fixed", "minimal", "longest_side"]
    """``camera``: the camera's own size; ``fixed``: one size, a square where the family does not say otherwise. With
    the camera's aspect, ``lower_bound``: both sides at least ``input_size``; ``minimal``: the side whose scale to
    ``input_size`` is nearer to 1 has that; ``longest_side``: the longer side has it."""
    multiple: int = Field(ge=1, le=LARGEST_SIDE)
    """Pixels; both sides of the network's input are multiples of it."""
    padding: Literal["none", "end", "center"] = "none"
    """How sides become multiples: by the resize itself, by padding at the right and the bottom, or at all sides."""


class ModelContract(Record):
    """Everything the device needs to turn a frame into depth with an artifact of this bundle."""

    model: str
    """Registry name of family and variant, e.g. ``cdm-vits``."""
    semantics: Semantics
    """What the output means."""
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    """Graph inputs in order."""
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    """Graph outputs in order; the first is the depth."""
    camera: Annotated[Size, AfterValidator(_bounded)]
    """Size of the frames this bundle was made for, and of the result."""
    network: Annotated[Size, AfterValidator(_bounded)]
    """Size of the network's input."""
    content: Annotated[Size, AfterValidator(_bounded)]
    """Size of the frame inside the network's input: all of it unless there is padding."""
    sizing: Sizing
    """Where ``network`` and ``content`` come from."""
    input_size: int = Field(gt=0, le=LARGEST_SIDE)
    """Lower bound of the network's sides that ``network`` was derived from, pixels; its smaller side otherwise."""
    channel_order: Literal["bgr", "rgb"]
    """Plane order the weights were trained with; folded into the weights, the interface is always RGB."""
    output_resize: Literal["nearest", "bilinear", "bilinear_corners", "bicubic"] = "nearest"
    """Resize of the network output to camera size (``processing/output.py``)."""
    max_depth: float = Field(default=6.0, gt=0, le=MOST_METERS, allow_inf_nan=False)
    """Meters. Sensor readings beyond this are treated as missing."""
    far: float = Field(default=DEFAULT_FAR, gt=0, le=MOST_METERS, allow_inf_nan=False)
    """Meters. Depth beyond this is invalid; without meaning for output that is not metric."""

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, data: Any) -> Any:
        """Bundles of schema 1 named the processing of two inputs for the whole contract."""
        return _from_schema_1(data) if isinstance(data, dict) and "content" not in data else data

    @model_validator(mode="after")
    def _whole(self) -> "ModelContract":
        """Nothing in it contradicts anything else; the primitives rely on it."""
        for spec in self.inputs:
            _check_input(spec, self.network)
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        if len(set(names)) < len(names):
            raise ValueError(f"two tensors have one name: {', '.join(names)}")
        if taken := RESERVED & set(names):
            raise ValueError(f"no tensor can be called {', '.join(sorted(taken))}: a reference frame has that itself")
        if any(spec.source is not None or spec.processing is not None for spec in self.outputs):
            raise ValueError("an output is made of no part of a frame")
        if any(side % self.sizing.multiple for side in self.network):
            raise ValueError(f"network {self.network} is no multiple of {self.sizing.multiple}")
        if self.sizing.padding == "none" and self.content != self.network:
            raise ValueError(f"without padding the frame fills the network: {self.content} in {self.network}")
        if any(inner > outer for inner, outer in zip(self.content, self.network, strict=True)):
            raise ValueError(f"content {self.content} is larger than network {self.network}")
        return self

    @property
    def batch(self) -> int:
        """Frames that go in at once."""
        return self.inputs[0].shape[0]

    def batched(self, batch: int) -> "ModelContract":
        """The same contract for ``batch`` frames at once."""

        def resized(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(spec.model_copy(update={"shape": (batch, *spec.shape[1:])}) for spec in specs)

        return self.model_copy(update={"inputs": resized(self.inputs), "outputs": resized(self.outputs)})

    def reads(self, source: Source) -> bool:
        """Whether an input is made of this part of the frame."""
        return any(spec.source == source for spec in self.inputs)

    @property
    def output(self) -> TensorSpec:
        """The output that is depth, or disparity; runtimes' outputs are read by its name."""
        return self.outputs[0]

    @property
    def metric(self) -> bool:
        """Whether the result is in meters."""
        return self.semantics.error_class is ErrorClass.RELATIVE


def _check_input(spec: TensorSpec, network: Size) -> None:
    """Raises ValueError for an input that no primitive makes."""
    processing = spec.processing
    if spec.source is None or processing is None:
        raise ValueError(f"input {spec.name} does not say what part of a frame it is made of, and how")
    of_depth = spec.source == "depth"
    if of_depth is processing.of_image or of_depth is not (processing.resize == "nearest"):
        raise ValueError(
            f"input {spec.name} is made of {spec.source} by {processing.resize} as {processing.normalization}"
        )
    if (spec.dtype == "uint8") is not (processing.normalization == "levels"):
        raise ValueError(f"input {spec.name} is {spec.dtype} and {processing.normalization}")
    if processing.antialias and processing.resize != "bilinear":
        raise ValueError(f"input {spec.name}: {processing.resize} has no antialias")
    planes = (1 if of_depth else 3,)
    height_width = (network.height, network.width)
    wanted = (*planes, *height_width) if processing.layout == "NCHW" else (*height_width, *planes)
    if spec.shape[1:] != wanted or len(spec.shape) != 4:
        raise ValueError(f"input {spec.name} has shape {list(spec.shape)}, expected [B, {', '.join(map(str, wanted))}]")


_IMAGE_OF_SCHEMA_1 = {"cubic": "unit", "cubic_8bit": "levels"}
"""``image_resize`` -> normalization; the kernel of both is cubic."""


def _from_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """A contract with ``image_resize`` and ``depth_input`` as one whose inputs say how they are made."""
    new = {key: value for key, value in data.items() if key not in ("image_resize", "depth_input")}
    image_resize, depth_input = data.get("image_resize", "cubic"), data.get("depth_input", "inverse_nearest")
    if image_resize not in _IMAGE_OF_SCHEMA_1:
        raise ValueError(f"image_resize '{str(image_resize)[:40]}' is not known")
    if depth_input not in ("inverse_nearest", None):
        raise ValueError(f"depth_input '{str(depth_input)[:40]}' is not known")
    made = {"image": ("rgb", {"resize": "cubic", "normalization": _IMAGE_OF_SCHEMA_1[image_resize]})}
    if depth_input is not None:
        made["inverse_depth"] = ("depth", {"resize": "nearest", "normalization": "inverse_depth"})
    inputs = []
    for spec in data.get("inputs", ()):
        fields = dict(spec) if isinstance(spec, dict | TensorSpec) else {"name": spec}
        source, processing = made.get(str(fields.get("name")), (None, None))
        inputs.append({**fields, "source": source, "processing": processing})
    return {
        **new,
        "inputs": inputs,
        "content": data.get("network"),
        "sizing": {"rule": "lower_bound", "multiple": 14, "padding": "none"},
    }
