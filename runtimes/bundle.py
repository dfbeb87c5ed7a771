"""A bundle on disk: its manifest, and opening it without trusting it.

Nothing in a bundle is executed and pickle is never loaded. Paths that leave the bundle are refused; sizes of all
files are checked at every opening, and the sha256 of every file about to be used.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cdm_export.runtimes.contract import ModelContract, Precision, Record, execution_name
from cdm_export.runtimes.errors import BundleError
from cdm_export.runtimes.graph_precision import GraphAudit, PrecisionPlan, Rewrite
from cdm_export.runtimes.hashing import cached_sha256, sha256_of
from cdm_export.runtimes.quantization import Dropped, Quantization

SCHEMA_VERSION = 1
"""Of the manifest; a bundle of another version is refused."""
MANIFEST = "manifest.json"


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
    size: int = Field(ge=0)
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


class Verdict(Record):
    """One backend's answer against the reference, worst frame."""

    backend: str
    """Backend that ran the artifact."""
    verdict: Literal["passed", "failed", "inconclusive"]
    """Outcome of the gate over all frames."""
    reason: str
    """Which limit was broken, or empty."""
    frames: int
    """Frames compared."""
    mean: float | None
    """Mean relative depth error of the worst frame, or share of the range where the output has no unit; None when
    nothing could be compared."""
    p99: float | None
    """99th percentile, likewise."""
    max: float | None
    """Largest, likewise."""
    mean_mm: float | None
    """Mean absolute depth error of the worst frame, mm; None where the output has no unit."""
    reference: str
    """What it was compared with."""

    @property
    def passed(self) -> bool:
        """Whether the gate was passed; an inconclusive comparison was not."""
        return self.verdict == "passed"

    @property
    def mean_text(self) -> str:
        """The mean error as a person reads it: in millimeters, or as a share where the output has no unit."""
        if self.mean is None:
            return "no"
        return self._millimeters or f"{self.mean:.1e} {_SHARE}"

    def __str__(self) -> str:
        if self.mean is None:
            return f"{self.verdict} ({self.reason})"
        figures = f"mean {self.mean:.1e}, p99 {self.p99:.1e}, max {self.max:.1e}, {self._millimeters or _SHARE}"
        return f"{self.verdict} ({figures}{'; ' + self.reason if self.reason else ''})"

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

    mean: float | None
    """Mean relative depth error, or share of the range where the output has no unit; None when nothing is valid."""
    p99: float | None
    """99th percentile, likewise."""
    mean_mm: float | None
    """Mean absolute depth error, mm; None where the output has no unit."""
    p99_mm: float | None
    """99th percentile, mm."""

    def __str__(self) -> str:
        if self.mean is None:
            return "nothing to compare"
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
    batch: int = Field(default=1, ge=1)
    """Frames that go in at once; with more than one its interface is ``ModelContract.batched``."""
    opset: int
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

    seed: int
    """Seed of the generator."""
    scale: float
    """Factor applied to the last convolution's weight and bias."""
    shift: float
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


class Manifest(Record):
    """``manifest.json``: the device needs nothing else."""

    schema_version: Literal[1]
    """Of this file."""
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


class Bundle:
    """A published bundle, opened for reading."""

    def __init__(self, path: Path, manifest: Manifest, identity: str) -> None:
        self.path = path
        self.manifest = manifest
        self.identity = identity
        """First 16 hex digits of the manifest's sha256; names its folder in the cache."""

    @classmethod
    def open(cls, path: str | Path, full: bool = False) -> "Bundle":
        """Open and check sizes of all files; with ``full`` their sha256 too, not trusting the cache.

        Raises BundleError for a missing or unreadable manifest, another schema, a path that leaves the bundle, a
        missing file, a size or a sha256 that differs.
        """
        root = Path(path)
        manifest_path = root / MANIFEST
        try:
            text = manifest_path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            what = "no such folder" if not root.exists() else "not a bundle: it has no manifest.json"
            raise BundleError(f"{root}: {what}", "Make one with: cdm-export export CHECKPOINT -o OUT.bundle") from None
        except OSError as error:
            raise BundleError(f"{manifest_path}: {error.strerror}") from error
        bundle = cls(root, _parse_manifest(text, manifest_path), hashlib.sha256(text).hexdigest()[:16])
        for record in bundle.manifest.files():
            bundle._check_size(record)
            if full:
                bundle._check_content(record, sha256_of)
        return bundle

    def file(self, record: FileRecord) -> Path:
        """Path of a file about to be used, after its sha256 was checked (cached by size, times and inode)."""
        self._check_content(record)
        return self.path / record.path

    def artifact_file(self, artifact: Artifact) -> Path:
        """Path of an artifact's main file, after every file of it was checked; unlisted files beside it are refused."""
        for record in artifact.files:
            self._check_content(record)
        listed = {record.path for other in self.manifest.artifacts for record in other.files}
        main = self.path / artifact.main
        for path in main.rglob("*") if main.is_dir() else main.parent.iterdir():
            name = path.relative_to(self.path).as_posix()
            if main.is_dir() and path.is_dir() and not path.is_symlink():
                continue
            if name not in listed:  # a graph could name it as its weights, and nobody has hashed it
                raise BundleError(f"{self.path}: '{name}' is no part of the bundle", "Remove it.")
        return main

    def _located(self, record: FileRecord) -> Path:
        path = self.path / record.path
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"{self.path}: '{record.path}' leads outside the bundle, to {path.resolve()}")
        return path

    def _check_size(self, record: FileRecord) -> None:
        path = self._located(record)
        if not path.is_file():
            raise BundleError(f"{self.path}: '{record.path}' is missing", _COPY_AGAIN)
        size = path.stat().st_size
        if size != record.size:
            raise BundleError(
                f"{self.path}: '{record.path}' has {size:,} bytes, the manifest says {record.size:,}", _COPY_AGAIN
            )

    def _check_content(self, record: FileRecord, hashed: Callable[[Path], str] = cached_sha256) -> None:
        self._check_size(record)
        got = hashed(self._located(record))
        if got != record.sha256:
            raise BundleError(
                f"{self.path}: '{record.path}' was changed since it was published: "
                f"sha256 is {got[:12]}…, the manifest says {record.sha256[:12]}…",
                _COPY_AGAIN,
            )


_COPY_AGAIN = "Copy the bundle again from where it was made, or export it again."


def _parse_manifest(text: bytes, path: Path) -> Manifest:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{path} is not JSON ({error})", _COPY_AGAIN) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this cdm-export reads {SCHEMA_VERSION}",
            "Export the bundle again with this version, or install the version that made it.",
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}", _COPY_AGAIN) from error
