"""What a device learnt about a bundle: verdicts and latencies. What was published is never touched.

One small JSON file per backend and precision, in ``engines/<backend>-<version>-<host>/``; in the cache when the bundle
cannot be written. Found by scanning, believed only for the very artefact and host they were made with.
"""

import contextlib
import hashlib
import re
from pathlib import Path

from pydantic import ValidationError

from runtimes.backends import BACKENDS
from runtimes.bundle import Artefact, Bundle, Verdict
from runtimes.cache import cache_dir, write_atomically
from runtimes.contract import Record
from runtimes.host import fingerprint


class LocalVerdict(Record):
    """``verify`` on this machine."""

    backend: str
    """Backend that ran."""
    precision: str
    """What it computed in."""
    artefact: str
    """``identity`` of the artefact; another one makes the verdict void."""
    host: str
    """``host.fingerprint()`` of the machine."""
    version: str
    """Version of the backend's library; another one makes the verdict void."""
    verdict: Verdict
    """What came out."""
    p50_ms: float | None
    """Median latency of inference, ms; None when it was not measured."""


def identity(artefact: Artefact) -> str:
    """sha256 over the sha256 of every file of an artefact: graph and weights."""
    return hashlib.sha256("".join(sorted(record.sha256 for record in artefact.files)).encode()).hexdigest()


def _folders(bundle: Bundle) -> tuple[Path, Path]:
    return bundle.path / "engines", cache_dir() / bundle.identity


def save(bundle: Bundle, local: LocalVerdict) -> Path | None:
    """Write the verdict, replacing an older one of the same backend, version, host and precision.

    Returns where; None when neither the bundle nor the cache can be written.
    """
    folder = re.sub(r"[^\w.+-]", "_", f"{local.backend}-{local.version}-{local.host}")
    beside, cached = (place / folder / f"verdict-{local.precision}.json" for place in _folders(bundle))
    data = local.model_dump_json(indent=1).encode()
    for path in (beside, cached):
        with contextlib.suppress(OSError):
            write_atomically(path, data)
            return path
    return None


def load(bundle: Bundle) -> dict[tuple[str, str], LocalVerdict]:
    """Verdicts made on this host, with the libraries and artefacts as they are now, by (backend, precision).

    Of two for the same, the newer counts.
    """
    current: dict[tuple[str, str], str] = {
        (artefact.format, artefact.precision): identity(artefact) for artefact in bundle.manifest.artefacts
    }
    host = fingerprint()
    found: list[tuple[float, LocalVerdict]] = []
    for file in (file for place in _folders(bundle) for file in place.glob("*/verdict-*.json")):
        try:
            local = LocalVerdict.model_validate_json(file.read_bytes())
            written = file.stat().st_mtime
        except (OSError, ValidationError):
            continue  # half a file from a dying disk is no verdict
        known = BACKENDS.get(local.backend)
        if known is None or known.version != local.version:
            continue
        typed = known.precisions.get(local.precision, "")
        if local.host == host and current.get((known.format, typed)) == local.artefact:
            found.append((written, local))
    found.sort(key=lambda item: item[0])
    return {(local.backend, local.precision): local for _, local in found}
