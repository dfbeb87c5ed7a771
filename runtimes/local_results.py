"""What a device learned about a bundle: verdicts and latencies. What was published is never touched.

One small JSON file per backend and precision, in ``engines/<backend>-<version>-<host>/``; in the cache when the bundle
cannot be written. Found by scanning, believed only for the very artifact and host they were made with.
"""

import contextlib
import re
from pathlib import Path

from pydantic import Field, ValidationError

from cdm_export.runtimes.backends import BACKENDS, Backend
from cdm_export.runtimes.bundle import Bundle, Verdict
from cdm_export.runtimes.cache import write_atomically
from cdm_export.runtimes.contract import Record, execution_name
from cdm_export.runtimes.engines import find, roots
from cdm_export.runtimes.host import fingerprint
from cdm_export.runtimes.nvidia import gpu_or_none


class LocalVerdict(Record):
    """``verify`` on this machine."""

    backend: str
    """Backend that ran."""
    precision: str
    """What it computed in."""
    batch: int = 1
    """Frames at once."""
    artifact: str = Field(validation_alias="artefact", serialization_alias="artefact")
    """``identity`` of the artifact, or sha256 of the engine that ran; another one makes the verdict void."""
    host: str
    """``host()`` of the machine."""
    version: str
    """Version of the backend's library; another one makes the verdict void."""
    verdict: Verdict
    """What came out."""
    p50_ms: float | None
    """Median latency of inference, ms per call; None when it was not measured."""

    @property
    def label(self) -> str:
        """Precision, and the batch where it is not 1."""
        return execution_name(self.precision, self.batch)


def host(backend: Backend) -> str:
    """Fingerprint of the machine, and of its GPU where the backend runs on one."""
    if backend.device != "cuda":
        return fingerprint()
    return fingerprint(str(gpu_or_none()))


def save(bundle: Bundle, local: LocalVerdict) -> Path | None:
    """Write the verdict, replacing an older one of the same backend, version, host, precision and batch.

    Returns where; None when neither the bundle nor the cache can be written.
    """
    folder = re.sub(r"[^\w.+-]", "_", f"{local.backend}-{local.version}-{local.host}")
    files = [place / folder / f"verdict-{local.label}.json" for place in roots(bundle)]
    return _write_first(files, local.model_dump_json(indent=1))


def save_bench(bundle: Bundle, text: str) -> Path | None:
    """Write the result of ``bench`` on this machine, replacing an older one. Returns as ``save``."""
    return _write_first(_bench_files(bundle), text)


def find_bench(bundle: Bundle) -> Path | None:
    """The newest result of ``bench`` on this machine."""
    found = [path for path in _bench_files(bundle) if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _bench_files(bundle: Bundle) -> list[Path]:
    return [place / f"bench-{fingerprint()}" / "bench.json" for place in roots(bundle)]


def _write_first(files: list[Path], text: str) -> Path | None:
    for path in files:
        with contextlib.suppress(OSError):
            write_atomically(path, text.encode())
            return path
    return None


def load(bundle: Bundle, batch: int = 1) -> dict[tuple[str, str], LocalVerdict]:
    """Verdicts made on this host, with the libraries and artifacts as they are now, by (backend, precision);
    those of artifacts that take ``batch`` frames at once.

    Of two for the same, the newer counts.
    """
    current: dict[tuple[str, str], str] = {
        (artifact.format, artifact.precision): artifact.identity
        for artifact in bundle.manifest.artifacts
        if artifact.batch == batch
    }
    found: list[tuple[float, LocalVerdict]] = []
    for file in (file for place in roots(bundle) for file in place.glob("*/verdict-*.json")):
        try:
            local = LocalVerdict.model_validate_json(file.read_bytes())
            written = file.stat().st_mtime
        except (OSError, ValidationError):
            continue  # half a file from a dying disk is no verdict
        known = BACKENDS.get(local.backend)
        if known is None or (known.version or "unknown") != local.version or local.batch != batch:
            continue
        if known.engine:
            engine = find(bundle, known, local.precision)
            expected = engine.record.engine.sha256 if engine else None
        else:
            run = known.runs_for(local.precision, [made for form, made in current if form == known.format])
            expected = current[known.format, run] if run else None
        if local.host == host(known) and expected == local.artifact:
            found.append((written, local))
    found.sort(key=lambda item: item[0])
    return {(local.backend, local.precision): local for _, local in found}
