"""Work in a process of its own: a crash, a leak or a hoard of memory ends with it.

The child is ``python -m MODULE JOB.json``. It reports one JSON object per line on standard output: anything its parent
understands, and at last ``{"done": ...}`` or ``{"error": ...}``, which the parent raises. It may read requests, one
JSON object per line, from standard input.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic_core import PydanticSerializationError

from cdm_export.runtimes import errors
from cdm_export.runtimes.cache import naming
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import BackendCrashed, CdmExportError, InputError, from_os_error
from cdm_export.runtimes.telemetry import QUIET
from cdm_export.runtimes.temporary import PREFIX, TemporaryFolder, no_temporary

Message = dict[str, Any]


_RUN_MODULE = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; sys.argv = sys.argv[1:]; "
    "from cdm_export.runtimes.lifeline import die_with; die_with(int(sys.argv.pop(1))); "
    "import runpy; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
"""``python -m`` would import from the folder the user stands in, which may be a bundle. Not ``-I``: PYTHONPATH is how
some devices expose vendor packages. ``-P`` when Python 3.10 is no longer supported. First of all the child ties itself
to its parent: the imports of a module take seconds."""
_KEPT_LINES = 3
"""Of what a child says on standard error."""


class Child:
    """A module at work in a process of its own. A context manager: the process is dead when the block ends."""

    def __init__(self, module: str, job: Record, what: str) -> None:
        """``what`` names the work in errors. Raises InputError when the temporary folder takes no file, or when a name
        in the job is not text.
        """
        self._what = what
        try:
            text = job.model_dump_json()
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise InputError(f"{what}: the name of a file or folder is not UTF-8 ({error})", "Rename it.") from error
        self._folder = TemporaryFolder()
        try:
            job_file = Path(self._folder.name) / "job.json"
            with naming(job_file):
                job_file.write_text(text, encoding="utf-8")
        except OSError as error:
            self._folder.cleanup()
            raise no_temporary(error) from error
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN_MODULE, module, str(os.getpid()), str(job_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **QUIET},
            encoding="utf-8",
            errors="backslashreplace",
        )
        assert self._process.stderr is not None
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        # Not a file: where the disk is full, that is what has to be said.
        self._listener = threading.Thread(target=_listen, args=(self._process.stderr, self._said), daemon=True)
        self._listener.start()

    def receive(self) -> Message:
        """The next report; the last one is ``{"done": ...}``.

        Raises the child's own error when it reported one; BackendCrashed when it died without a word.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library's chatter
            if not isinstance(message, dict):
                continue
            if "error" in message:
                _raise(message["error"])
            if "done" in message and self._process.wait() != 0:
                break
            return message
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._listener.join(timeout=1)
        tail = " | ".join(self._said)
        raise BackendCrashed(f"{self._what} {how}: {tail or 'no message'}", _NEXT.get(-code, ""))

    def ask(self, request: Message) -> Message:
        """Send a request to a child that reads ``requests`` and return its next report. Raises as ``receive``."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: receive says how
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self.receive()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join(timeout=1)  # a process the child left behind may hold its end of the pipe
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        self._folder.cleanup()


def run_isolated(module: str, job: Record, what: str, on_message: Callable[[Message], None]) -> Any:
    """Run a module over a job and return what it reported as done. Raises as ``Child.receive``."""
    with Child(module, job, what) as child:
        while "done" not in (message := child.receive()):
            on_message(message)
        return message["done"]


_NEXT = {int(signal.SIGKILL): "Was memory short? The system's log names the process it killed: dmesg | tail"}


def serve(main: Callable[[str], Record]) -> None:
    """The child's end: run ``main`` on the job's text, report what it returns or raises, and exit accordingly."""
    try:
        report({"done": main(Path(sys.argv[1]).read_text(encoding="utf-8")).model_dump(mode="json")})
    except CdmExportError as error:
        _fail(error)
    except OSError as error:
        # Parent and child share the temporary folder; what it is called is the parent's choice.
        ours = str(Path(sys.argv[1]).parents[1] / PREFIX)
        _fail(no_temporary(error) if str(error.filename).startswith(ours) else from_os_error(error))
    except KeyboardInterrupt:
        sys.exit(130)


def requests() -> Iterator[Message]:
    """What the parent asks, until it has no more."""
    for line in sys.stdin:
        yield json.loads(line)


def report(message: Message) -> None:
    """One line to the parent."""
    print(json.dumps(message), flush=True)


def _fail(error: CdmExportError) -> None:
    report({"error": {"type": type(error).__name__, "message": error.message, "next_step": error.next_step}})
    sys.exit(error.exit_code)


def _listen(stream: IO[str], kept: "deque[str]") -> None:
    """Keep the last lines, for as long as somebody can write."""
    with stream:
        kept.extend(text for line in stream if (text := line.strip()))


def _raise(error: Message) -> None:
    kind = getattr(errors, error["type"], CdmExportError)
    raise kind(error["message"], error["next_step"])
