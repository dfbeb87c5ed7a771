"""What a device learned about a bundle: verdicts, latencies, and which of two paths is faster. What was published is
never touched.

Small JSON files per backend and precision, in ``engines/<backend>-<version>-<host>/`` beside the bundle; in the cache
when the bundle cannot be written. Found by scanning, believed only when this user wrote them on this machine
(``signing.py``), and only for the very artifact and host they were made with.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from cdm_export.runtimes import engines
from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.bounded_json import Finite, Milliseconds
from cdm_export.runtimes.bundle import Bundle, Verdict
from cdm_export.runtimes.cache import write_atomically
from cdm_export.runtimes.contract import Record, execution_name
from cdm_export.runtimes.engines import find, roots
from cdm_export.runtimes.host import fingerprint
from cdm_export.runtimes.nvidia import gpu_or_none
from cdm_export.runtimes.signing import Kind, read_document, read_signed, signed_text

LEAST_ROUNDS = 5
"""Of a comparison that counts: the interval of fewer pairs says nothing."""
_MAKERS = {Kind.BENCH: "bench", Kind.EVALUATION: "evaluate"}
_Result = TypeVar("_Result", "LocalVerdict", "LocalSpeed")


class RunPath(Record):
    """One way to run a bundle on one machine: what else has to be the same for a result to hold."""

    backend: str
    """Backend that ran."""
    precision: str
    """What it computed in."""
    batch: int = Field(default=1, ge=1, le=4096)
    """Frames at once."""
    artifact: str = Field(validation_alias="artefact", serialization_alias="artefact")
    """``identity`` of the artifact, or sha256 of the engine that ran; another one makes the result void."""
    host: str
    """``host()`` of the machine."""
    version: str
    """Version of the backend's library; another one makes the result void."""

    @property
    def label(self) -> str:
        """Precision, and the batch where it is not 1."""
        return execution_name(self.precision, self.batch)


class LocalVerdict(RunPath):
    """``verify`` on this machine."""

    verdict: Verdict
    """What came out."""
    p50_ms: Milliseconds | None
    """Median latency of inference, ms per call; None when it was not measured. Of ``verify``, which measures one
    backend after another, until ``bench`` measured them in turn."""
    disturbed: str = ""
    """How busy the machine was with something else meanwhile, in words; empty when it was not, or does not tell."""


class Ratio(Record):
    """Time per frame against another path, both timed in the same rounds."""

    baseline: RunPath
    """The other path."""
    ratio: Finite
    """Median over rounds of this path's time / the baseline's."""
    interval: tuple[Finite, Finite]
    """Its 95 % interval."""
    rounds: int = Field(ge=1)
    """Pairs."""

    @property
    def faster(self) -> bool:
        """Whether this path is faster beyond doubt."""
        return self.rounds >= LEAST_ROUNDS and self.interval[1] < 1

    @property
    def slower(self) -> bool:
        """Whether it is slower beyond doubt."""
        return self.rounds >= LEAST_ROUNDS and self.interval[0] > 1


class LocalSpeed(RunPath):
    """``bench`` on this machine: one path against every other."""

    ratios: tuple[Ratio, ...]
    """One per other path of the same batch."""

    @property
    def by_path(self) -> dict[tuple[str, str], Ratio]:
        """By backend and precision of the other path."""
        return {(one.baseline.backend, one.baseline.precision): one for one in self.ratios}


@dataclass(frozen=True)
class Foreign:
    """A result beside a bundle that nobody on this machine vouches for."""

    what: str
    """In words."""
    path: Path
    """Where it lies."""


def host(backend: Backend) -> str:
    """Fingerprint of the machine, and of its GPU where the backend runs on one."""
    if backend.device != "cuda":
        return fingerprint()
    return fingerprint(str(gpu_or_none()))


def path_here(bundle: Bundle, backend: Backend, precision: str, batch: int = 1) -> RunPath | None:
    """How a backend would run a precision of a bundle here and now; None when there is nothing for it to run."""
    if backend.engine:
        engine = find(bundle, backend, precision) if batch == 1 else None
        identity = engine.record.engine.sha256 if engine else None
    else:
        made = {
            artifact.precision: artifact.identity
            for artifact in bundle.manifest.artifacts
            if artifact.batch == batch and artifact.format == backend.format
        }
        run = backend.runs_for(precision, list(made))
        identity = None if run is None else next(value for name, value in made.items() if name == run)
    if identity is None:
        return None
    return RunPath(
        backend=backend.name,
        precision=precision,
        batch=batch,
        artifact=identity,
        host=host(backend),
        version=backend.version or "unknown",
    )


def save(bundle: Bundle, local: LocalVerdict) -> Path | None:
    """Write the verdict, replacing an older one of the same backend, version, host, precision and batch.

    Returns where; None when neither the bundle nor the cache can be written.
    """
    return _save(bundle, Kind.VERDICT, local)


def save_speed(bundle: Bundle, speed: LocalSpeed) -> Path | None:
    """Write how fast a path is against others, keeping what is known of still others. Returns as ``save``."""
    known = load_speeds(bundle, speed.batch).get((speed.backend, speed.precision))
    ratios = {one.baseline: one for one in (*(known.ratios if known else ()), *speed.ratios)}
    return _save(bundle, Kind.SPEED, speed.model_copy(update={"ratios": tuple(ratios.values())}))


def save_bench(bundle: Bundle, result: Record) -> Path | None:
    """Write the result of ``bench`` on this machine, replacing an older one. Returns as ``save``."""
    return _write_first(
        [place / f"bench-{fingerprint()}" / "bench.json" for place in roots(bundle)], Kind.BENCH, result
    )


def find_bench(bundle: Bundle) -> Path | None:
    """The newest result of ``bench`` by this user on this machine."""
    found = _own(bundle, Kind.BENCH, f"bench-{fingerprint()}/bench.json")
    return found[0] if found else None


def save_evaluation(bundle: Bundle, result: Record, name: str) -> Path | None:
    """Write a result of ``evaluate`` on this machine, replacing an older one of that name. Returns as ``save``."""
    folder = f"evaluation-{fingerprint()}"
    return _write_first([place / folder / f"{name}.json" for place in roots(bundle)], Kind.EVALUATION, result)


def find_evaluations(bundle: Bundle) -> list[Path]:
    """Results of ``evaluate`` by this user on this machine, the newest first; of two of a name, the newer."""
    found = _own(bundle, Kind.EVALUATION, f"evaluation-{fingerprint()}/*.json")
    return list({path.name: path for path in reversed(found)}.values())[::-1]


def load(bundle: Bundle, batch: int = 1) -> dict[tuple[str, str], LocalVerdict]:
    """Verdicts made on this host, with the libraries and artifacts as they are now, by (backend, precision);
    those of artifacts that take ``batch`` frames at once.

    Of two for the same, the newer counts.
    """
    return _load(bundle, batch, Kind.VERDICT, LocalVerdict)


def load_speeds(bundle: Bundle, batch: int = 1) -> dict[tuple[str, str], LocalSpeed]:
    """Comparisons made on this host, as ``load``; of each only those with paths as they are now."""
    return {
        key: speed.model_copy(update={"ratios": tuple(one for one in speed.ratios if _holds(bundle, one.baseline))})
        for key, speed in _load(bundle, batch, Kind.SPEED, LocalSpeed).items()
    }


def foreign(bundle: Bundle) -> list[Foreign]:
    """Results beside the bundle that came with it: shown as such, and neither believed nor run."""
    found = [
        Foreign(f"{local.backend} {local.label}: {local.verdict}", path)
        for _, path, local, own in _scan(bundle, Kind.VERDICT, "*/verdict-*.json", LocalVerdict)
        if not own
    ]
    found += [
        Foreign(f"{speed.backend} {speed.label}: speed against others", path)
        for _, path, speed, own in _scan(bundle, Kind.SPEED, "*/speed-*.json", LocalSpeed)
        if not own
    ]
    for kind, pattern in ((Kind.BENCH, "bench-*/bench.json"), (Kind.EVALUATION, "evaluation-*/*.json")):
        for path in sorted((bundle.path / "engines").glob(pattern)):
            with contextlib.suppress(OSError, ValueError):
                if not read_document(kind, path)[1]:
                    found.append(Foreign(f"result of {_MAKERS[kind]}", path))
    found += [
        Foreign(f"engine {engine.record.precision} for {engine.record.machine}", engine.path)
        for engine in engines.scan(bundle)
        if not engine.own
    ]
    return found


def _save(bundle: Bundle, kind: Kind, local: RunPath) -> Path | None:
    folder = re.sub(r"[^\w.+-]", "_", f"{local.backend}-{local.version}-{local.host}")
    return _write_first([place / folder / f"{kind.value}-{local.label}.json" for place in roots(bundle)], kind, local)


def _write_first(files: list[Path], kind: Kind, record: Record) -> Path | None:
    text = signed_text(kind, record)
    if text is None:
        return None  # a cache that takes no secret takes no result either, and one beside the bundle would be foreign
    for path in files:
        with contextlib.suppress(OSError):
            write_atomically(path, text.encode())
            return path
    return None


def _own(bundle: Bundle, kind: Kind, pattern: str) -> list[Path]:
    """Documents that this user made on this machine, the newest first."""
    found = []
    beside, cached = roots(bundle)
    for place in (beside, cached):
        for path in place.glob(pattern):
            with contextlib.suppress(OSError, ValueError):
                if read_document(kind, path)[1] or place == cached:
                    found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


_Read = TypeVar("_Read", bound=Record)


def _scan(bundle: Bundle, kind: Kind, pattern: str, record: type[_Read]) -> Iterator[tuple[float, Path, _Read, bool]]:
    """When it was written, where, what it says, and whether it is this user's, made on this machine."""
    beside, cached = roots(bundle)
    for place in (beside, cached):
        for path in sorted(place.glob(pattern)):
            try:
                read, signed = read_signed(kind, path, record)
                yield path.stat().st_mtime, path, read, signed or place == cached
            except (OSError, ValueError):
                continue  # half a file from a dying disk is no result


def _load(bundle: Bundle, batch: int, kind: Kind, record: type[_Result]) -> dict[tuple[str, str], _Result]:
    found = [
        (written, local)
        for written, _, local, own in _scan(bundle, kind, f"*/{kind.value}-*.json", record)
        if own and local.batch == batch and _holds(bundle, local)
    ]
    found.sort(key=lambda item: item[0])
    return {(local.backend, local.precision): local for _, local in found}


def _holds(bundle: Bundle, result: RunPath) -> bool:
    """Whether library, artifact or engine, and machine are those the result was made with."""
    backend = BACKENDS.get(result.backend)
    here = path_here(bundle, backend, result.precision, result.batch) if backend is not None else None
    return here is not None and (here.artifact, here.host, here.version) == (
        result.artifact,
        result.host,
        result.version,
    )
