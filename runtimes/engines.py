"""Engines beside a bundle: where they lie, which one fits this machine, and why none does."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.bundle import Bundle, State
from cdm_export.runtimes.cache import cache_dir, write_atomically
from cdm_export.runtimes.engine_record import EngineRecord, Machine
from cdm_export.runtimes.errors import BackendUnavailable, BundleError
from cdm_export.runtimes.hashing import cached_sha256
from cdm_export.runtimes.nvidia import gpu_or_none, system_name
from cdm_export.runtimes.signing import FOREIGN, Kind, read_signed, signed_text

PLAN, RECORD = "engine.plan", "engine.json"
FAILED_SUFFIX = "-failed"
"""Of the folder a failed engine is kept in, beside the usable ones."""


@dataclass(frozen=True)
class FoundEngine:
    """An engine on disk."""

    path: Path
    """The plan."""
    record: EngineRecord
    """What lies beside it."""
    own: bool = True
    """Whether this user built it on this machine; a foreign one is shown, and neither run nor believed."""


def roots(bundle: Bundle) -> tuple[Path, Path]:
    """Where device results lie: in the bundle, and in the cache when that cannot be written."""
    return bundle.path / "engines", cache_dir() / bundle.identity


def folder_name(machine: Machine) -> str:
    """Folder of all engines for one machine."""
    kind = "rtx" if machine.backend == "tensorrt-rtx" else "trt"
    gpu = machine.gpu
    parts = [kind, machine.version]
    parts += [f"sm{gpu.compute_capability.replace('.', '')}", f"cuda{gpu.cuda}"] if gpu else ["any"]
    parts += [machine.system, *([gpu.name] if gpu else [])]
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))


def scan(bundle: Bundle) -> list[FoundEngine]:
    """Every readable engine record of a bundle, foreign ones too, oldest first; what cannot be read is no engine."""
    found = []
    for record in (record for root in roots(bundle) for record in root.glob(f"*/*/{RECORD}")):
        if record.parents[1].name.startswith("."):
            continue  # being built
        try:
            folder = record.parent
            found.append((record.stat().st_mtime, FoundEngine(folder / PLAN, read_record(folder), is_own(folder))))
        except (OSError, BundleError):
            continue
    found.sort(key=lambda pair: pair[0])
    return [engine for _, engine in found]


def find(bundle: Bundle, backend: Backend, precision: str) -> FoundEngine | None:
    """The newest usable engine of this backend and precision that fits this machine and the bundle's artifacts.

    The library's exact version is compared when it is loaded; here only where its metadata is to be had.
    """
    fitting = [
        engine
        for engine in scan(bundle)
        if engine.own and engine.record.precision == precision and _misfit(bundle, backend, engine.record) is None
    ]
    return fitting[-1] if fitting else None


def rejected_here(bundle: Bundle, backend: Backend, state: State) -> set[str]:
    """Precisions of which an engine was built on this machine, from the artifacts as they are, and is now in ``state``:
    ``failed`` or ``dropped``.
    """
    return {
        engine.record.precision
        for engine in scan(bundle)
        if engine.own
        and engine.record.state is state
        and _misfit(bundle, backend, engine.record.model_copy(update={"state": State.CANDIDATE})) is None
    }


def why_none(bundle: Bundle, backend: Backend, precision: str) -> BackendUnavailable:
    """Error that says why ``find`` found nothing, with the command that builds one."""
    command = f"Build one: cdm-export build {bundle.path} --target {backend.name}"
    if precision != "auto":
        command += f" --precision {precision}"
    reasons = []
    for engine in scan(bundle):
        record = engine.record
        if record.machine.backend != backend.name or precision not in ("auto", record.precision):
            continue
        misfit = _misfit(bundle, backend, record) or (None if engine.own else FOREIGN)
        reasons.append(f"{record.precision} in {engine.path.parent}: {misfit or 'not tested on this device yet'}")
        if misfit is None:
            command = f"Test it: cdm-export verify {bundle.path} --backend {backend.name}"
    what = f"{bundle.path} has no usable {'' if precision == 'auto' else precision + ' '}engine for '{backend.name}'"
    return BackendUnavailable(f"{what}: {'; '.join(reasons) or 'none was built'}", command)


def read_record(folder: Path) -> EngineRecord:
    """The record in an engine's folder, foreign or not. Raises BundleError when it is missing or not ours."""
    return _read(folder)[0]


def is_own(folder: Path) -> bool:
    """Whether this user wrote the record in an engine's folder on this machine: it lies in this user's cache, or
    carries a MAC of ours. Raises as ``read_record``.
    """
    return _read(folder)[1] or folder.resolve().parents[2] == cache_dir().resolve()


def write_record(folder: Path, record: EngineRecord) -> None:
    """Put a record beside an engine that this process built or judged, with the MAC that makes it count here.

    Raises BundleError where the cache cannot keep the secret that takes: nobody could tell it from a foreign one.
    """
    text = signed_text(Kind.ENGINE, record)
    if text is None:
        raise BundleError(
            f"{folder}: an engine built here cannot be marked as such: {cache_dir()} cannot be written",
            "Set $CDM_EXPORT_CACHE to a folder of yours that stays.",
        )
    write_atomically(folder / RECORD, text.encode())


def _read(folder: Path) -> tuple[EngineRecord, bool]:
    path = folder / RECORD
    try:
        return read_signed(Kind.ENGINE, path, EngineRecord)
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror}: an engine without its record is not loaded", rebuild(path)
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}", rebuild(path)) from error
    except ValueError as error:
        raise BundleError(f"{path} is no record of an engine: {error}", rebuild(path)) from error


def check_engine(path: Path, record: EngineRecord, here: Machine) -> None:
    """Raise unless the engine may be handed to the library: BackendUnavailable when it was made for another machine,
    BundleError when it failed, is foreign, is truncated or was changed.
    """
    if record.state is State.FAILED:
        raise BundleError(
            f"{path} failed its self-test ({record.self_test}): it is evidence, not an engine", rebuild(path)
        )
    if differences := record.machine.differences(here):
        raise BackendUnavailable(
            f"{path.parent.name} engine was built with {record.machine}; this machine has {here}: "
            f"{'; '.join(differences)}",
            f"Build it here: cdm-export build {_bundle_of(path)} --target {record.machine.backend} "
            f"--precision {record.precision}",
        )
    if not is_own(path.parent):
        raise BundleError(
            f"{path} is {FOREIGN}: an engine is code, and its record nobody here vouches for",
            f"Build it here: cdm-export build {_bundle_of(path)} --target {record.machine.backend} "
            f"--precision {record.precision} --force",
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}", rebuild(path)) from error
    if size != record.engine.size:
        raise BundleError(
            f"{path} has {size:,} bytes, its record says {record.engine.size:,}: not loaded", rebuild(path)
        )
    got = cached_sha256(path)
    if got != record.engine.sha256:
        raise BundleError(
            f"{path} was changed since it was built: sha256 is {got[:12]}…, its record says "
            f"{record.engine.sha256[:12]}…",
            rebuild(path),
        )


def rebuild(engine: Path, options: str = "") -> str:
    """The next command for an engine, or a record beside one, that cannot be used."""
    return f"Build it again: cdm-export build {_bundle_of(engine)}{options} --force"


def _bundle_of(engine: Path) -> str:
    """The bundle an engine lies in, as far as its path tells."""
    folder = engine.parents[2]
    return str(folder.parent) if folder.name == "engines" else "BUNDLE"


def _version_here(backend: Backend, built: str) -> str:
    """The library's version from its metadata, which may have fewer or more parts than what the library says itself."""
    if backend.version is None:
        return built
    if all(ours == theirs for ours, theirs in zip(backend.version.split("."), built.split("."), strict=False)):
        return built
    return backend.version


def _misfit(bundle: Bundle, backend: Backend, record: EngineRecord) -> str | None:
    """Why an engine is not usable here; None when nothing speaks against it."""
    machine = record.machine
    if machine.backend != backend.name:
        return f"it is for {machine.backend}"
    if record.state is State.FAILED:
        return f"it failed: {record.self_test or 'see its record'}"
    if record.state is State.DROPPED:
        return f"it is no faster: {record.speed or 'see its record'}"
    source = next((one for one in bundle.manifest.artifacts if one.name == record.source.artifact), None)
    if source is None or source.identity != record.source.identity or record.contract != bundle.manifest.contract:
        return "it was built from another artifact than the bundle holds now"
    here = Machine(
        backend=machine.backend,
        version=_version_here(backend, machine.version),
        system=system_name(),
        gpu=gpu_or_none(),
    )
    differences = machine.differences(here)
    return f"built with {machine}: {'; '.join(differences)}" if differences else None
