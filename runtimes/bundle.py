"""A bundle on disk: its manifest, and opening it without trusting it.

Nothing in a bundle is executed and pickle is never loaded. Paths that leave the bundle are refused; sizes of all
files are checked at every opening, and the sha256 of every file about to be used; and after the use, that the files are
still those that were checked.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError

from cdm_export.runtimes.bounded_json import MIB, parse_json, read_bounded
from cdm_export.runtimes.errors import BundleChanged, BundleError
from cdm_export.runtimes.file_identity import Witness
from cdm_export.runtimes.hashing import identified_sha256
from cdm_export.runtimes.manifest import (
    Artifact,
    FileRecord,
    Golden,
    GraphInterface,
    InputLoss,
    Manifest,
    Provenance,
    RandomWeights,
    State,
    Verdict,
)

__all__ = [
    "MANIFEST",
    "MOST_BYTES",
    "SCHEMA_VERSION",
    "Artifact",
    "Bundle",
    "FileRecord",
    "Golden",
    "GraphInterface",
    "InputLoss",
    "Manifest",
    "Provenance",
    "RandomWeights",
    "State",
    "Verdict",
]

SCHEMA_VERSION: Literal[2] = 2
"""Of the manifest; a bundle of another version is refused."""
MANIFEST = "manifest.json"
MOST_BYTES = 64 * MIB
"""Of a manifest; one of a large bundle has 0.1 MiB."""


class Bundle:
    """A published bundle, opened for reading."""

    def __init__(self, path: Path, manifest: Manifest, identity: str, witness: Witness | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.identity = identity
        """First 16 hex digits of the manifest's sha256; names its folder in the cache."""
        self._published = witness or Witness()
        """The bundle's folder and manifest."""
        self._used = Witness()
        """Every other file that was handed out, and the folders on the way to it."""

    @classmethod
    def open(cls, path: str | Path, full: bool = False) -> "Bundle":
        """Open and check sizes of all files; with ``full`` their sha256 too, not trusting the cache.

        Raises BundleError for a missing or unreadable manifest, another schema, a path that leaves the bundle, a
        missing file, a size or a sha256 that differs; BundleChanged when it was replaced meanwhile.
        """
        root = Path(path)
        manifest_path = root / MANIFEST
        witness = Witness()
        try:
            witness.folder(root)
            text, identity = read_bounded(manifest_path, MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            what = "no such folder" if not root.exists() else "not a bundle: it has no manifest.json"
            raise BundleError(f"{root}: {what}", "Make one with: cdm-export export CHECKPOINT -o OUT.bundle") from None
        except OSError as error:
            raise BundleError(f"{manifest_path}: {error.strerror}") from error
        except ValueError as error:
            raise BundleError(f"{manifest_path} is no manifest: {error}", _COPY_AGAIN) from error
        witness.file(manifest_path, identity)
        bundle = cls(root, _parse_manifest(text, manifest_path), hashlib.sha256(text).hexdigest()[:16], witness)
        with bundle._of_one_bundle():
            for record in bundle.manifest.files():
                bundle._check_size(record)
                if full:
                    bundle._check_content(record, cached=False)
        return bundle

    def file(self, record: FileRecord) -> Path:
        """Path of a file about to be used, after its sha256 was checked (cached by size, times and inode)."""
        with self._of_one_bundle():
            self._check_content(record)
        return self.path / record.path

    def artifact_file(self, artifact: Artifact) -> Path:
        """Path of an artifact's main file, after every file of it was checked; unlisted files beside it are refused."""
        main = self.path / artifact.main
        with self._of_one_bundle():
            for record in artifact.files:
                self._check_content(record)
            listed = {record.path for other in self.manifest.artifacts for record in other.files}
            for path in main.rglob("*") if main.is_dir() else main.parent.iterdir():
                name = path.relative_to(self.path).as_posix()
                if main.is_dir() and path.is_dir() and not path.is_symlink():
                    continue
                if name not in listed:  # a graph could name it as its weights, and nobody has hashed it
                    raise BundleError(f"{self.path}: '{name}' is no part of the bundle", "Remove it.")
        return main

    def watch(self, path: Path) -> None:
        """Count a file that is no part of the bundle among those that must stay the same: an engine, a checkpoint.

        Raises BundleError where there is none.
        """
        try:
            self._used.file(path)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from error

    def check_unchanged(self) -> None:
        """Raise BundleChanged unless manifest and every file handed out so far are those that were checked.

        To be called after whatever was to use them has read them: a name may have meant another file in between.
        """
        self._check(self._published.changed() or self._used.changed())

    def _check(self, changed: Path | None) -> None:
        if changed is not None:
            raise BundleChanged(
                f"{self.path} was replaced or written to while it was opened: {changed} is not what was checked",
                "Wait until whatever writes it is done, then run the same command again.",
            )

    @contextmanager
    def steady(self) -> Iterator[None]:
        """What is done inside used the files that were checked, or BundleChanged is raised, also for the BundleError
        that half of one bundle and half of another look like.
        """
        try:
            yield
        except (BundleError, OSError):
            self.check_unchanged()
            raise
        self.check_unchanged()

    @contextmanager
    def _of_one_bundle(self) -> Iterator[None]:
        """A file that does not fit the manifest fits another one where the bundle was replaced meanwhile."""
        try:
            yield
        except (BundleError, OSError):
            self._check(self._published.changed())
            raise

    def _located(self, record: FileRecord) -> Path:
        path = self.path / record.path
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"{self.path}: '{record.path}' leads outside the bundle, to {path.resolve()}")
        return path

    def _check_size(self, record: FileRecord) -> None:
        path = self._located(record)
        try:
            size = path.stat().st_size if path.is_file() else None
        except OSError:
            size = None
        if size is None:
            raise BundleError(f"{self.path}: '{record.path}' is missing", _COPY_AGAIN)
        if size != record.size:
            raise BundleError(
                f"{self.path}: '{record.path}' has {size:,} bytes, the manifest says {record.size:,}", _COPY_AGAIN
            )

    def _check_content(self, record: FileRecord, cached: bool = True) -> None:
        path = self.path / record.path
        with contextlib.suppress(OSError):  # a missing one is reported below
            for folder in (self.path / parent for parent in PurePosixPath(record.path).parents):
                self._used.folder(folder)
        self._check_size(record)
        try:
            got, identity = identified_sha256(self._located(record), cached)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}", _COPY_AGAIN) from error
        if got != record.sha256:
            raise BundleError(
                f"{self.path}: '{record.path}' was changed since it was published: "
                f"sha256 is {got[:12]}…, the manifest says {record.sha256[:12]}…",
                _COPY_AGAIN,
            )
        self._used.file(path, identity)


_COPY_AGAIN = "Copy the bundle again from where it was made, or export it again."


def _parse_manifest(text: bytes, path: Path) -> Manifest:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{path} is not JSON ({error})", _COPY_AGAIN) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version not in (1, SCHEMA_VERSION):
        raise BundleError(
            f"{path} has schema version {str(version)[:40]}, this cdm-export reads 1 and {SCHEMA_VERSION}",
            "Export the bundle again with this version, or install the version that made it.",
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}", _COPY_AGAIN) from error
