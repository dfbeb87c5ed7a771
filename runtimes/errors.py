"""Every error a user can meet, rooted in one class, each with the exit code of the command line.

Exit codes: 1 a gate failed or was inconclusive; 2 bad usage or bad input; 3 the backend is not available here.
A message says what happened and expected against got; ``next_step`` is the command to type or the thing to change.
"""

import errno
import os


class CdmExportError(Exception):
    """Root of the tree. ``str(error)`` is the whole message, next step included."""

    exit_code = 2

    def __init__(self, message: str, next_step: str = "") -> None:
        self.message = message
        """What happened; expected against got."""
        self.next_step = next_step
        """What to do about it, empty when the message says it all."""
        super().__init__(f"{message}\n{next_step}" if next_step else message)


class InputError(CdmExportError):
    """Something the user gave (a file, a size, a name) cannot be used."""


class CheckpointError(InputError):
    """A checkpoint is unreadable, incomplete, of another variant, or not tensors at all."""


class BundleError(InputError):
    """A bundle is missing, changed since it was published, or from another schema."""


class BundleChanged(BundleError):
    """A bundle was replaced or written to between its check and its use: what was opened is not what was checked."""


class ParityError(CdmExportError):
    """A gate failed or was inconclusive: the artifact must not be used."""

    exit_code = 1


class BackendUnavailable(CdmExportError):
    """The backend, its device or the precision asked for cannot run on this machine."""

    exit_code = 3


class DriverMissing(BackendUnavailable):
    """This machine has no driver for the device at all, as opposed to one that does not work."""


class BackendCrashed(CdmExportError):
    """A backend's process died without a word: killed, out of memory, or a defect."""

    exit_code = 1


class EngineBuildError(CdmExportError):
    """A builder refused a graph, gave up, or made an engine that is not what it should be."""

    exit_code = 1


class EngineRunError(CdmExportError):
    """The device failed while an engine ran, or ran it differently than before."""

    exit_code = 1


class BuildCanceled(CdmExportError):
    """Whoever asked for a build stopped it."""

    exit_code = 130


class RuntimeMisuse(CdmExportError):
    """A runtime was called from a second thread, after ``close()``, or with the wrong tensors."""


_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def from_os_error(error: OSError, what: str = "a file", elsewhere: str = "write to another place") -> InputError:
    """The system's refusal in our words: which file, why, and what to do where there was no room.

    ``what`` was being read or written, for errors that name no file; ``elsewhere``: how to choose another place.
    """
    name = what if error.filename is None or isinstance(error.filename, int) else os.fsdecode(error.filename)
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno not in _NO_ROOM:
        return InputError(f"{name}: {reason}")
    return InputError(f"{name} could not be written: {reason}", f"Free space there, or {elsewhere}.")


def did_you_mean(name: str, known: list[str]) -> str:
    """Sentence naming the closest known name, then all of them: ``did you mean 'x'? Known: x, y``."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"Did you mean '{close[0]}'? " if close else "") + "Known: " + ", ".join(known)
