"""Temporary folders that do not outlive their process, not even one that is killed: the next one clears them away."""

import os
import tempfile
from pathlib import Path
from types import TracebackType

from cdm_export.runtimes.errors import InputError, from_os_error
from cdm_export.runtimes.lock import clear_abandoned, hold

PREFIX = "cdm-export-"
"""How the names of our folders in the system's temporary folder begin."""


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A folder that this process holds a lock on; gone with the block, the object or the process."""

    def __init__(self, parent: Path | None = None, prefix: str = PREFIX) -> None:
        """In ``parent``, by default ``$TMPDIR``. Raises InputError, naming the folder, when it cannot be made."""
        if parent is None:
            clear_abandoned_temporary()
        else:
            clear_abandoned(parent, prefix)
        try:
            super().__init__(prefix=prefix, dir=parent)
        except OSError as error:
            raise no_temporary(error) from error
        self._descriptor = hold(Path(self.name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, OSError) and (error.filename is None or str(error.filename).startswith(self.name)):
            raise no_temporary(error) from error

    def cleanup(self) -> None:
        """Remove it; calling again is harmless."""
        super().cleanup()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


def no_temporary(error: OSError) -> InputError:
    """What to say when something could not be written to a temporary folder."""
    return from_os_error(error, "a temporary file", "set TMPDIR to a folder with room")


def clear_abandoned_temporary() -> None:
    """Remove the temporary folders of ours whose processes are gone."""
    try:
        parent = Path(tempfile.gettempdir())
    except OSError:  # no folder can be written at all: whoever needs one says so
        return
    clear_abandoned(parent, PREFIX)
