"""Work in a process of its own: a crash, a leak or a hoard of memory ends with it.

The child is ``python -m MODULE JOB.json``. It reports one JSON object per line on standard output: anything its parent
understands, and at last ``{"done": ...}`` or ``{"error": ...}``, which the parent raises. It may read requests, one
JSON object per line, from standard input.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from cdm_export.runtimes import errors
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import BackendCrashed, CdmExportError

Message = dict[str, Any]


_RUN_MODULE = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; sys.argv = sys.argv[1:]; import runpy; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
"""``python -m`` would import from the folder the user stands in, which may be a bundle. Not ``-I``: PYTHONPATH is how
some devices expose vendor packages. ``-P`` when Python 3.10 is no longer supported."""


class Child:
    """A module at work in a process of its own. A context manager: the process is dead when the block ends."""

    def __init__(self, module: str, job: Record, what: str) -> None:
        """``what`` names the work in errors."""
        self._what = what
        self._folder = tempfile.TemporaryDirectory(prefix="cdm-export-")
        job_file = Path(self._folder.name) / "job.json"
        job_file.write_text(job.model_dump_json())
        self._log = Path(self._folder.name) / "stderr"
        command = [sys.executable, "-c", _RUN_MODULE, module, str(job_file)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

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
        tail = " | ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])
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
        report({"done": main(Path(sys.argv[1]).read_text()).model_dump(mode="json")})
    except CdmExportError as error:
        report({"error": {"type": type(error).__name__, "message": error.message, "next_step": error.next_step}})
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def requests() -> Iterator[Message]:
    """What the parent asks, until it has no more."""
    for line in sys.stdin:
        yield json.loads(line)


def report(message: Message) -> None:
    """One line to the parent."""
    print(json.dumps(message), flush=True)


def _raise(error: Message) -> None:
    kind = getattr(errors, error["type"], CdmExportError)
    raise kind(error["message"], error["next_step"])
