"""What is written beside an engine: what it was made from, for which machine, and the proof of what it is."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cdm_export.runtimes.bundle import FileRecord, State, Verdict
from cdm_export.runtimes.contract import INTEGER, ModelContract, Precision, Record
from cdm_export.runtimes.nvidia import Gpu
from cdm_export.runtimes.quantization import SpeedComparison

ENGINE_SCHEMA = 1
"""Of ``engine.json``; an engine with another one is rebuilt."""

_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


class Machine(Record):
    """What an engine is tied to."""

    backend: Literal["tensorrt", "tensorrt-rtx"]
    """Library family; neither loads the other's engines."""
    version: str
    """``__version__`` of the library."""
    system: str
    """``L4T36.4.3``, or operating system and CPU architecture."""
    gpu: Gpu | None
    """GPU; None for an engine that was built for every GPU its library knows."""

    def __str__(self) -> str:
        return f"{_TITLES[self.backend]} {self.version} on {self.gpu or 'any RTX GPU'}, {self.system}"

    def differences(self, here: "Machine") -> list[str]:
        """In what ``here`` differs, each as ``what: engine's, here's``; empty when the engine fits."""
        pairs = [
            ("library", _TITLES[self.backend], _TITLES[here.backend]),
            ("version", self.version, here.version),
            ("system", self.system, here.system),
        ]
        if self.gpu is not None:
            other = here.gpu
            pairs += [
                ("GPU", self.gpu.name, other.name if other else "none"),
                ("compute capability", self.gpu.compute_capability, other.compute_capability if other else "none"),
                ("CUDA", self.gpu.cuda, other.cuda if other else "none"),
            ]
        return [f"{what} {made}, here {found}" for what, made, found in pairs if made != found]


class Source(Record):
    """The artifact an engine was built from."""

    artifact: str = Field(validation_alias="artefact", serialization_alias="artefact")
    """Its name in the bundle, e.g. ``onnx/fp16``."""
    identity: str
    """sha256 over the sha256 of its files."""


class BuildSettings(Record):
    """What the builder was told."""

    typing: Literal["strong", "legacy"]
    """``strong``: types are the graph's. ``legacy``: TensorRT 8.6, which chooses types under a flag."""
    tf32: bool
    """Whether float32 products may be rounded to TF32; as the configuration reports it."""
    optimization_level: int = Field(validation_alias="optimisation_level", serialization_alias="optimisation_level")
    """0..5."""
    workspace: int
    """Upper limit of scratch memory, bytes; 0 for the library's own."""
    workaround: str = Field(default="", validation_alias="remedy", serialization_alias="remedy")
    """What was done to get round a known fault: ``fusion-breaker`` or nothing."""
    extra_outputs: tuple[str, ...] = ()
    """Outputs beyond the contract's, marked for the workaround and ignored by the runtime."""


def _outcome(given: object) -> object:
    """Records written before 0.2 have other words."""
    return {"proven": "passed", "disproven": "failed", "not visible": "unknown"}.get(str(given), given)


class EngineCheck(Record):
    """One thing an engine should be, and whether the builder's own account shows it."""

    name: str = Field(validation_alias="claim", serialization_alias="claim")
    """In words."""
    outcome: Annotated[Literal["passed", "failed", "unknown"], BeforeValidator(_outcome)]
    """``unknown`` where the account does not say; that is neither good nor bad."""
    detail: str
    """Figures, names of modules."""
    fatal: bool
    """Whether disproving it makes the engine unusable; otherwise it costs time only."""


class LayerReport(Record):
    """What an engine is made of, from the library's own account."""

    source: Literal["layer table in the builder's log", "engine inspector", "none"]
    """Where it was read."""
    kernels: int
    """All layers that compute."""
    by_kind: dict[str, dict[str, int]]
    """Layers by kind and type."""
    fused_attention: int
    """Attentions that are one kernel."""
    float32_products: tuple[str, ...]
    """Modules whose matrix products or convolutions read float32 in an engine of lower precision."""
    checks: tuple[EngineCheck, ...] = Field(validation_alias="claims", serialization_alias="claims")
    """What was to be shown."""

    @property
    def broken(self) -> tuple[EngineCheck, ...]:
        """Checks whose failure makes the engine unusable."""
        return tuple(check for check in self.checks if check.fatal and check.outcome == "failed")

    @property
    def costly(self) -> tuple[EngineCheck, ...]:
        """Checks whose failure costs time."""
        return tuple(check for check in self.checks if not check.fatal and check.outcome == "failed")


class EngineRecord(Record):
    """``engine.json`` beside ``engine.plan``."""

    schema_version: Literal[1]
    """Of this file."""
    created: str
    """UTC, ISO 8601."""
    producer: str
    """Version of this package."""
    precision: Precision
    """What it computes in, and its gate."""
    source: Source
    """What it was built from."""
    contract: ModelContract
    """What its tensors mean."""
    engine: FileRecord
    """The plan; ``path`` is relative to this file."""
    machine: Machine
    """What it fits."""
    settings: BuildSettings
    """How it was built."""
    layer_report: LayerReport = Field(validation_alias="evidence", serialization_alias="evidence")
    """What it is made of."""
    warnings: tuple[str, ...]
    """The builder's own."""
    build_seconds: float
    """Parsing and building."""
    state: State
    """``published`` after a passed self-test on its device, ``candidate`` where it could not run, ``failed``, or
    ``dropped``: INT8 that is no faster here."""
    self_test: Verdict | None
    """Golden frames through this engine; None where it could not run."""
    measured_ms: float | None
    """Median of the self-test's timing; None where it could not run."""
    speed: SpeedComparison | None = None
    """Of an INT8 engine: against the one it had to beat on this device."""

    @property
    def undecided(self) -> bool:
        """Whether this is an INT8 engine that has not yet been compared with the engine it has to beat: ``auto``
        leaves it alone."""
        return self.precision in INTEGER and self.state is State.CANDIDATE
