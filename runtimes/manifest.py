"""``manifest.json``: what a bundle says of itself. Numbers are bounded and finite, paths stay inside the bundle."""

import hashlib
import math
from collections.abc import Iterator
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from cdm_export.runtimes.bounded_json import Count, Finite
from cdm_export.runtimes.contract import ErrorClass, ModelContract, Precision, Record, execution_name
from cdm_export.runtimes.graph_precision import GraphAudit, PrecisionPlan, Rewrite
from cdm_export.runtimes.quantization import Dropped, Quantization


def _inside(path: str) -> str:
    """A relative POSIX path that stays inside the bundle; anything else is refused."""
    pure = PurePosixPath(path)
    if not path or "\\" in path or ":" in path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise ValueError(f"path '{path}' leaves the bundle")
    return str(pure)


InsidePath = Annotated[str, AfterValidator(_inside)]


class FileRecord(Record):
    """One file, as it was when the bundle was published."""

    path: InsidePath
    """Relative to the bundle."""
    size: Count
    """Bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the content."""


class State(str, Enum):
    """Where an artifact stands."""

    PUBLISHED = "published"
    """Its gate passed, measured where it runs."""
    CANDIDATE = "candidate"
    """Accurate, its speed unknown until its own device."""
    DROPPED = "dropped"
    """Accurate but not worth having; both figures are kept."""
    FAILED = "failed"
    """Its gate failed; kept as evidence, never run."""


_SHARE = "of the output's range"


def _class(error_class: ErrorClass | None, mean_mm: float | None) -> ErrorClass:
    """What figures are; a file from before it was said has millimeters where they are relative to meters."""
    if error_class is not None:
        return error_class
    return ErrorClass.RANGE if mean_mm is None else ErrorClass.RELATIVE


def _measured(value: object, info: ValidationInfo) -> object:
    """What was computed may be no number: then there is no figure. A file that says so is not believed."""
    if isinstance(value, float) and not math.isfinite(value):
        if info.mode == "json":
            raise ValueError("is not a finite number")
        return None
    return value


Figure = Annotated[float | None, BeforeValidator(_measured)]


class Verdict(Record):
    """One backend's answer against the reference, worst frame."""

    backend: str
    """Backend that ran the artifact."""
    verdict: Literal["passed", "failed", "inconclusive"]
    """Outcome of the gate over all frames."""
    reason: str
    """Which limit was broken, or empty."""
    frames: Count
    """Frames compared."""
    mean: Figure
    """Mean error of the worst frame, see ``error_class``; None when nothing could be compared."""
    p99: Figure
    """99th percentile, likewise."""
    max: Figure
    """Largest, likewise."""
    mean_mm: Figure
    """Mean absolute depth error of the worst frame, mm; None where the output is not depth in meters."""
    error_class: ErrorClass | None = None
    """What ``mean``, ``p99`` and ``max`` are: relative, a share of the range, or pixels; None in older files."""
    reference: str
    """What it was compared with."""

    @property
    def passed(self) -> bool:
        """Whether the gate was passed; an inconclusive comparison was not."""
        return self.verdict == "passed"

    @property
    def mean_text(self) -> str:
        """The mean error as a person reads it: in millimeters, in pixels, or as a share of the output's range."""
        if self.mean is None:
            return "no"
        if self._error_class is ErrorClass.PIXELS:
            return f"{self.mean:.2g} px"
        return self._millimeters or f"{self.mean:.1e} {_SHARE}"

    def __str__(self) -> str:
        if self.mean is None:
            return f"{self.verdict} ({self.reason})"
        if self._error_class is ErrorClass.PIXELS:
            figures = f"mean {self.mean:.2g} px, p99 {self.p99:.2g} px, max {self.max:.2g} px"
        else:
            figures = f"mean {self.mean:.1e}, p99 {self.p99:.1e}, max {self.max:.1e}, {self._millimeters or _SHARE}"
        return f"{self.verdict} ({figures}{'; ' + self.reason if self.reason else ''})"

    @property
    def _error_class(self) -> ErrorClass:
        return _class(self.error_class, self.mean_mm)

    @property
    def _millimeters(self) -> str | None:
        return None if self.mean_mm is None else f"{self.mean_mm:.2g} mm"


class Golden(Record):
    """One frame with everything the reference made of it."""

    name: str
    """Name of the frame in its source."""
    file: FileRecord
    """npz of ``rgb, raw_depth, depth_scale``, the network inputs by name, ``raw_output``, ``depth``, ``valid``."""


class InputLoss(Record):
    """What inputs of another interface cost by themselves: the reference fed with both, worst frame."""

    mean: Figure
    """Mean error, see ``error_class``; None when nothing is valid."""
    p99: Figure
    """99th percentile, likewise."""
    mean_mm: Figure
    """Mean absolute depth error, mm; None where the output is not depth in meters."""
    p99_mm: Figure
    """99th percentile, mm."""
    error_class: ErrorClass | None = None
    """What ``mean`` and ``p99`` are, as in a verdict."""

    def __str__(self) -> str:
        if self.mean is None:
            return "nothing to compare"
        if _class(self.error_class, self.mean_mm) is ErrorClass.PIXELS:
            return f"mean {self.mean:.2g} px, p99 {self.p99:.2g} px"
        relative = f"mean {self.mean:.1e}, p99 {self.p99:.1e}"
        return (
            f"{relative} of the output's range"
            if self.mean_mm is None
            else (f"mean {self.mean_mm:.2g} mm, p99 {self.p99_mm:.2g} mm ({relative})")
        )


class GraphInterface(Record):
    """How an artifact is fed, and the frames to test that with."""

    contract: ModelContract
    """What its tensors mean."""
    golden: tuple[Golden, ...]
    """Reference frames with its inputs."""
    loss: InputLoss | None = None
    """What its inputs lose against those of the bundle; None for the bundle's own."""


class Artifact(Record):
    """One deployable form of the model."""

    name: str
    """``format/precision``, with the batch where it is not 1; unique in the bundle."""
    format: Literal["onnx", "coreml"]
    """File format; decides which backends can run it."""
    precision: Precision
    """Precision of the graph and name of its gate."""
    batch: int = Field(default=1, ge=1, le=4096)
    """Frames that go in at once; with more than one its interface is ``ModelContract.batched``."""
    opset: int = Field(ge=1, le=10_000)
    """ONNX operator set; of a Core ML package the version of its specification."""
    main: InsidePath
    """File to open, the others belong to it; or the folder that holds them all."""
    files: tuple[FileRecord, ...]
    """Every file of the artifact."""
    producers: dict[str, str]
    """Library versions that made it."""
    rewrites: dict[str, Rewrite]
    """Exact rewrites applied, and what each saved."""
    precision_plan: PrecisionPlan | None = Field(default=None, validation_alias="typing", serialization_alias="typing")
    """Which modules are typed how, for a graph of lower precision."""
    graph: GraphAudit | None = None
    """What is in the graph; None where it was not audited."""
    quantization: Quantization | None = Field(
        default=None, validation_alias="quantisation", serialization_alias="quantisation"
    )
    """How its integers came about; None where it has none."""
    interface: GraphInterface | None = Field(default=None, validation_alias="boundary", serialization_alias="boundary")
    """Of its own; None where it is the bundle's."""
    state: State
    """Where it stands."""
    verdicts: tuple[Verdict, ...] = ()
    """Parity per backend, on the machine that made the bundle."""

    @model_validator(mode="after")
    def _main_is_vouched_for(self) -> "Artifact":
        paths = {record.path for record in self.files}
        if self.main not in paths and not (paths and all(path.startswith(f"{self.main}/") for path in paths)):
            raise ValueError(f"main file '{self.main}' is not among its files")
        return self

    @property
    def label(self) -> str:
        """Precision, and the batch where it is not 1: ``fp16``, ``fp16-b4``."""
        return execution_name(self.precision, self.batch)

    @property
    def identity(self) -> str:
        """sha256 over the sha256 of every file: graph and weights."""
        return hashlib.sha256("".join(sorted(record.sha256 for record in self.files)).encode()).hexdigest()

    def verdict(self, backend: str) -> Verdict | None:
        """The verdict of one backend, if it ran."""
        return next((verdict for verdict in self.verdicts if verdict.backend == backend), None)


class RandomWeights(Record):
    """Seeded weights instead of a checkpoint: enough to make the same ones again."""

    seed: int = Field(ge=-(2**63), lt=2**64)
    """Seed of the generator, as PyTorch takes it."""
    scale: Finite
    """Factor applied to the last convolution's weight and bias."""
    shift: Finite
    """Added to its bias afterwards, in the convolution's unit."""


class Provenance(Record):
    """Where the weights came from."""

    checkpoint: str | None
    """File name of the checkpoint; None for seeded random weights."""
    sha256: str
    """Of the checkpoint file, or of the state dict of random weights."""
    random_weights: RandomWeights | None
    """How to make random weights again."""
    license: str = Field(validation_alias="licence", serialization_alias="licence")
    """Note on the weights' license; may be empty."""
    package: str = ""
    """Distribution and version whose family the model is; empty for this package's own."""


class Manifest(Record):
    """``manifest.json``: the device needs nothing else."""

    schema_version: Literal[1, 2]
    """Of this file; 1 said for the whole contract how its inputs are made."""
    name: str
    """Name of the bundle when it was made."""
    created: str
    """UTC, ISO 8601."""
    producer: str
    """Version of this package that made it."""
    contract: ModelContract
    """What the tensors mean; shapes are those of one frame at a time."""
    provenance: Provenance
    """Where the weights came from."""
    artifacts: tuple[Artifact, ...] = Field(validation_alias="artefacts", serialization_alias="artefacts")
    """Deployable forms."""
    dropped: tuple[Dropped, ...] = ()
    """What was made and is not here."""
    golden: tuple[Golden, ...]
    """Frames to test a device with."""
    reports: tuple[FileRecord, ...]
    """Parity report and pictures."""

    def interface(self, artifact: Artifact | None) -> GraphInterface:
        """How an artifact is fed with one frame: its own interface, else the bundle's, also the reference's (None)."""
        own = None if artifact is None else artifact.interface
        return own or GraphInterface(contract=self.contract, golden=self.golden)

    @property
    def batches(self) -> tuple[int, ...]:
        """Frames at once that there are artifacts for, 1 first."""
        return tuple(sorted({1, *(artifact.batch for artifact in self.artifacts)}))

    def files(self) -> Iterator[FileRecord]:
        """Every file the manifest vouches for."""
        for artifact in self.artifacts:
            yield from artifact.files
            yield from (golden.file for golden in (artifact.interface.golden if artifact.interface else ()))
        for golden in self.golden:
            yield golden.file
        yield from self.reports
