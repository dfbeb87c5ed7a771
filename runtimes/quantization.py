"""How an INT8 graph came about: written where it is made, read on any device."""

from enum import Enum

from pydantic import Field

from cdm_export.runtimes.contract import Record


class FrameGroup(str, Enum):
    """What a frame was to the search for parts that cannot bear INT8."""

    CALIBRATION = "calibration"
    """Ranges were taken from it."""
    HELD_OUT = "held-out"
    """Of the calibration frames, but no range was taken from it."""
    VERIFICATION = "verification"
    """The finished graph is verified on it too."""

    def __str__(self) -> str:
        return self.value


class Trial(Record):
    """One quantized form of the network, simulated in PyTorch on some frames; worst frame."""

    mean: float | None
    """Mean relative depth error; None when nothing could be compared."""
    p99: float | None
    """99th percentile of it."""
    share_of_gate: float | None
    """The largest figure as a share of its limit, 1 is the limit; None when nothing could be compared."""
    worst: int | None = None
    """Which of the frames has it, counted from 0; None in what older versions wrote."""


class Judgment(Record):
    """What was decided, simulated on one group of frames."""

    group: FrameGroup
    """What the frames were to the search."""
    frames: tuple[str, ...]
    """Their names in their sources."""
    limit: float
    """Share of the gate that the search allowed them."""
    found: Trial
    """Their figures; ``found.worst`` counts in ``frames``."""

    def __str__(self) -> str:
        share = "nothing comparable" if self.found.share_of_gate is None else f"{self.found.share_of_gate:.2f}"
        return f"{share} of the gate on {len(self.frames)} {self.group} frame(s), up to {self.limit:.2g} allowed"


class CalibrationIdentity(Record):
    """What calibration depends on; another one means another calibration."""

    weights: str
    """sha256 of the checkpoint, or of the state dict of random weights."""
    frames: tuple[str, ...]
    """sha256 of the network inputs of each frame that ranges are taken from."""
    held_out: tuple[str, ...] = ()
    """The same of the calibration frames that only judge."""
    verification: tuple[str, ...] = ()
    """The same of the verification frames, which only judge too."""
    processing: str
    """sha256 of the contract."""
    procedure: int
    """Version of observers, smoothing and search."""


class SpeedComparison(Record):
    """The fastest INT8 path against the fastest other one that passed its gate, a frame of each in turn."""

    int8: str
    """Backend and precision."""
    other: str
    """Backend and precision."""
    int8_ms: float
    """Median of a whole frame, ms."""
    other_ms: float
    """Median, ms."""
    ratio: float
    """Median over rounds of INT8 / other; under 1 INT8 is faster."""
    interval: tuple[float, float]
    """Ends of its 95 % interval."""

    @property
    def faster(self) -> bool:
        """Whether INT8 is faster beyond doubt: the whole interval."""
        return self.interval[1] < 1

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.int8} takes {self.int8_ms:.1f} ms a frame, {self.other} {self.other_ms:.1f} ms: "
            f"{self.ratio:.2f} times (95 %: {low:.2f} to {high:.2f})"
        )


class Quantization(Record):
    """Everything that was measured and decided."""

    calibration: CalibrationIdentity
    """What the ranges were taken from."""
    source: str
    """The frames' source, as it was given."""
    observer: str
    """Which bound was best: ``abs-max``, ``percentile`` or ``mse``."""
    smoothed: bool
    """Whether channels were smoothed (SmoothQuant)."""
    strengths: dict[str, float]
    """Strength of smoothing per layer; 0 where none helps."""
    steps: dict[str, float]
    """Step of the integers at the input of every quantized layer, in units of that input."""
    excluded: dict[str, str] = Field(validation_alias="kept", serialization_alias="kept")
    """Parts that are not quantized, and why."""
    trials: dict[str, Trial]
    """Everything quantized, on calibration frames: ``plain`` or ``smoothed``, then the observer."""
    sensitivity: dict[str, Trial]
    """Only one part quantized, on a calibration frame, worst first."""
    excluded_megabytes: float = Field(validation_alias="kept_megabytes", serialization_alias="kept_megabytes")
    """What the parts that are not quantized cost in an FP32 file, beyond their integers, 10^6 bytes."""
    judgments: tuple[Judgment, ...] = ()
    """Which frames judged which parts are quantized, and what was found on them; empty in what older versions wrote.
    Verification frames among them are no independent test of the graph."""
    speed: SpeedComparison | None = None
    """On the machine that made the bundle; None for a graph that does not run there."""


class Dropped(Record):
    """An artifact that was made, measured and not published."""

    name: str
    """``format/precision``."""
    reason: str
    """Why, with the figures."""
    failed: bool
    """Whether it missed its gate; otherwise it was not worth having."""
