"""What a device learnt about a bundle: verdicts and latencies. What was published is never touched.

One small JSON file per backend and precision, in ``engines/<backend>-<version>-<host>/``; in the cache when the bundle
cannot be written. Found by scanning, believed only for the very artefact and host they were made with.
"""

import re
from pathlib import Path

from pydantic import ValidationError

from runtimes.bundle import Artefact, Bundle, Verdict
from runtimes.cache import cache_dir, write_atomically
from runtimes.contract import Record
from runtimes.host import fingerprint


class LocalVerdict(Record):
    """``verify`` on this machine."""

    backend: str
    """Backend that ran."""
    precision: str
    """Precision of the artefact."""
    artefact_sha256: str
    """Of the artefact's main file; another artefact makes the verdict void."""
    host: str
    """``host.fingerprint()`` of the machine."""
    versions: dict[str, str]
    """Library versions that ran."""
    verdict: Verdict
    """What came out."""
    p50_ms: float | None
    """Median latency of inference, ms; None when it was not measured."""


def main_sha256(artefact: Artefact) -> str:
    """sha256 of an artefact's main file, from the manifest."""
    return next(record.sha256 for record in artefact.files if record.path == artefact.main)


def _folders(bundle: Bundle) -> tuple[Path, Path]:
    return bundle.path / "engines", cache_dir() / bundle.identity


def save(bundle: Bundle, local: LocalVerdict) -> Path:
    """Write the verdict, replacing an older one of the same backend, version, host and precision."""
    version = "-".join(local.versions.values()) or "unknown"
    folder = re.sub(r"[^\w.+-]", "_", f"{local.backend}-{version}-{local.host}")
    beside, cached = (place / folder / f"verdict-{local.precision}.json" for place in _folders(bundle))
    data = local.model_dump_json(indent=1).encode()
    try:
        write_atomically(beside, data)
        return beside
    except OSError:
        write_atomically(cached, data)
        return cached


def load(bundle: Bundle) -> dict[tuple[str, str], LocalVerdict]:
    """Verdicts made on this host for artefacts as they are now, newest first come, by (backend, precision)."""
    current: dict[str, str] = {artefact.precision: main_sha256(artefact) for artefact in bundle.manifest.artefacts}
    host = fingerprint()
    files = [file for place in _folders(bundle) for file in place.glob("*/verdict-*.json")]
    verdicts: dict[tuple[str, str], LocalVerdict] = {}
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        try:
            local = LocalVerdict.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            continue  # half a file from a dying disk is no verdict
        if local.host == host and current.get(local.precision) == local.artefact_sha256:
            verdicts[local.backend, local.precision] = local
    return verdicts
