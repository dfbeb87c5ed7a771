"""Which file a name means, so that what was checked can be compared with what was used.

A name can mean another file a moment later: a bundle is replaced by renaming a finished folder over it. What does not
lie is the file behind the name: device, inode, size and both of its times.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileIdentity:
    """One version of one file. ``changed_ns`` cannot be set by whoever changes the file, and a rename moves it too."""

    device: int
    """``st_dev``."""
    inode: int
    """``st_ino``."""
    size: int
    """Bytes."""
    modified_ns: int
    """``st_mtime_ns``."""
    changed_ns: int
    """``st_ctime_ns``."""

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """From what ``stat`` or ``fstat`` says."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Witness:
    """Remembers files and the folders they lie in; says later what is no longer the same."""

    def __init__(self) -> None:
        self._files: dict[Path, FileIdentity] = {}
        self._folders: dict[Path, FileIdentity] = {}
        self._links: dict[Path, FileIdentity] = {}

    def file(self, path: Path, identity: FileIdentity | None = None) -> None:
        """Remember a file before it is used; ``identity`` of an open file where its content was read from that.

        Raises OSError when there is none.
        """
        self._files[path] = identity or FileIdentity.of(path.stat())

    def folder(self, path: Path) -> None:
        """Remember a folder, and the link where ``path`` is one; what was remembered first counts. Raises OSError."""
        if path not in self._folders:
            self._folders[path] = FileIdentity.of(path.stat())
            link = path.lstat()
            if stat.S_ISLNK(link.st_mode):
                self._links[path] = FileIdentity.of(link)

    def changed(self) -> Path | None:
        """The first path that means something else now, or was exchanged and put back; None when all are the same."""
        for path, before in self._files.items():
            if _now(path) != before:
                return path
        for path, before in self._links.items():
            if _now(path, follow=False) != before:
                return path
        for path, before in self._folders.items():
            if not _same_folder(before, _now(path)):
                return path
        return None


def _now(path: Path, follow: bool = True) -> FileIdentity | None:
    try:
        return FileIdentity.of(path.stat() if follow else path.lstat())
    except OSError:
        return None


def _same_folder(before: FileIdentity, now: FileIdentity | None) -> bool:
    """A new entry moves both times of a folder, and is allowed: results are written beside a bundle. A rename moves
    only the second one: the folder was exchanged for another and is back.
    """
    if now is None or (before.device, before.inode) != (now.device, now.inode):
        return False
    return now.changed_ns == before.changed_ns or now.modified_ns != before.modified_ns
