"""How an INT8 graph came about: written where it is made, read on any device."""

from pydantic import Field

from cdm_export.runtimes.contract import Record


class Trial(Record):
    """One quantized form of the network, simulated in PyTorch on calibration frames; worst frame."""

    mean: float | None
    """Mean relative depth error; None when nothing could be compared."""
    p99: float | None
    """99th percentile of it."""
    share_of_gate: float | None
    """The largest figure as a share of its limit, 1 is the limit; None when nothing could be compared."""


class CalibrationIdentity(Record):
    """What calibration depends on; another one means another calibration."""

    weights: str
    """sha256 of the checkpoint, or of the state dict of random weights."""
    frames: tuple[str, ...]
    """sha256 of the network inputs of each frame."""
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
    """Everything quantized: ``plain`` or ``smoothed``, then the observer."""
    sensitivity: dict[str, Trial]
    """Only one part quantized, worst first."""
    excluded_megabytes: float = Field(validation_alias="kept_megabytes", serialization_alias="kept_megabytes")
    """What the parts that are not quantized cost in an FP32 file, beyond their integers, 10^6 bytes."""
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
