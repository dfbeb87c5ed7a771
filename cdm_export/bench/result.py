"""What ``bench`` writes: figures with the conditions they hold under."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from cdm_export.bench.power import Power
from cdm_export.bench.statistics import Interval
from cdm_export.runtimes.bundle import Verdict
from cdm_export.runtimes.contract import Record, execution_name
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.measure import Measurement
from cdm_export.runtimes.signing import Kind, read_signed

STAGES = ("preprocess", "inference", "postprocess")
"""Of every call; together they are its ``total``."""


class Entry(Record):
    """One backend in one precision with one number of threads."""

    backend: str
    """Name."""
    precision: str
    """What it computed in."""
    batch: int = 1
    """Frames at once; latencies are those of the whole batch."""
    threads: int
    """Compute threads asked for; 0 for the library's default on all usable CPUs."""
    description: dict[str, Any]
    """``Runtime.describe()`` in the process that ran: provider, versions, what really executed."""
    verdict: Verdict | None
    """Parity it ran under; None when this pair was never verified."""
    verified_here: bool
    """Whether that verdict was made on this machine."""
    open_ms: float
    """Opening in a fresh process, the library's import included."""
    first_ms: float
    """First frame after that; with ``open_ms`` the cold start."""
    stages: dict[str, Measurement]
    """``preprocess``, ``inference`` (transfers included), ``postprocess`` and ``total``, ms per call; with a device
    that times itself also its own stages, which are part of ``inference``."""
    mean: Interval
    """Mean of ``total`` with its 95 % interval, ms."""
    ratio: Interval
    """``total`` per frame over the baseline's, paired by round, median with its 95 % interval; 1 for the baseline."""
    rss_anon_mb: float | None
    """Largest anonymous memory of the process after a call, 10^6 bytes; None where the system does not tell."""
    peak_rss_mb: float
    """Largest resident memory of the process in its life, files mapped included, 10^6 bytes."""
    power: Power | None = None
    """While its calls ran; None where the machine has no sensor that is read."""
    samples_ms: tuple[float, ...]
    """``total`` of every timed call, in order."""

    @property
    def name(self) -> str:
        """Backend, precision, batch where it is not 1 and, when it was asked for, threads."""
        label = execution_name(self.precision, self.batch)
        return f"{self.backend} {label}" + (f" x{self.threads}" if self.threads else "")

    @property
    def device_words(self) -> str:
        """Median of every stage that the device timed; empty when it timed none."""
        named = [stage for stage in self.stages if stage not in (*STAGES, "total")]
        return ", ".join(f"{stage} {self.stages[stage].p50:.3g} ms" for stage in named)

    @property
    def frames_per_second(self) -> float:
        """Frames of a call / mean of ``total``."""
        return 1e3 * self.batch / self.mean[0]


def per_frame_note(entries: Sequence[Entry]) -> str:
    """What latencies mean where some are those of a batch; empty where none are."""
    batches = [entry.name for entry in entries if entry.batch > 1]
    return f"latency of {', '.join(batches)} is that of the whole batch; the ratio is per frame" if batches else ""


class BenchResult(Record):
    """A run of ``bench``."""

    schema_version: Literal[1] = 1
    """Of this file."""
    bundle: str
    """Name of the bundle when it was made."""
    identity: str
    """``Bundle.identity``."""
    model: str
    """Registry name."""
    camera: str
    """Size of the frames."""
    network: str
    """Size the network ran at."""
    weights: str
    """Where the weights came from, in words."""
    frames: tuple[str, ...]
    """Names of the golden frames, taken in turn."""
    idle_ms: float
    """Pause before every timed frame."""
    complete: bool
    """False when the run was interrupted: fewer rounds than asked for."""
    baseline: str
    """Entry that ``ratio`` refers to."""
    entries: tuple[Entry, ...]
    """What ran, in order."""
    skipped: dict[str, str]
    """What cannot run here or failed its gate, and why."""
    failed: dict[str, str]
    """What died, and how."""
    warnings: tuple[str, ...] = ()
    """What puts the figures in doubt."""
    environment: dict[str, Any]
    """Machine, libraries, revision; clocks, temperature and load before and after; power where a Jetson tells it."""


def load_result(path: Path) -> BenchResult:
    """Read a result. Raises InputError for a file that is none, or of another schema."""
    try:
        return read_signed(Kind.BENCH, path, BenchResult)[0]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = "".join(f"{part}: " for part in (".".join(map(str, first["loc"])),) if part)
        raise InputError(
            f"{path} is no result of this version's bench: {where}{first['msg']}",
            "Make one with: cdm-export bench BUNDLE -o NAME.json",
        ) from error
