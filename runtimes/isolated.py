"""Work in a process of its own: a crash, a leak or a hoard of memory ends with it.

The child is ``python -m MODULE JOB.json``. It reports one JSON object per line on standard output: anything the
caller's ``on_message`` understands, and at last ``{"done": ...}`` or ``{"error": ...}``, which the parent raises.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import runtimes.errors
from runtimes.contract import Record
from runtimes.errors import BackendCrashed, CdmExportError

Message = dict[str, Any]


_RUN_MODULE = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; sys.argv = sys.argv[1:]; import runpy; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
"""``python -m`` would import from the folder the user stands in, which may be a bundle. Not ``-I``: PYTHONPATH is how
some devices expose vendor packages. ``-P`` when Python 3.10 is no longer supported."""


def run_isolated(module: str, job: Record, what: str, on_message: Callable[[Message], None]) -> Any:
    """Run a module over a job and return what it reported as done.

    Raises the child's own error when it reported one; BackendCrashed, naming ``what``, when it died without a word.
    The child is dead when this returns, whichever way.
    """
    with tempfile.TemporaryDirectory(prefix="cdm-export-") as folder, tempfile.TemporaryFile("w+") as stderr:
        job_file = Path(folder) / "job.json"
        job_file.write_text(job.model_dump_json())
        command = [sys.executable, "-c", _RUN_MODULE, module, str(job_file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        done: Message | None = None
        try:
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # a library's chatter
                if not isinstance(message, dict):
                    continue
                if "error" in message:
                    _raise(message["error"])
                if "done" in message:
                    done = message
                else:
                    on_message(message)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if done is None or code != 0:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            stderr.seek(0)
            tail = " | ".join(stderr.read().strip().splitlines()[-3:])
            raise BackendCrashed(f"{what} {how}: {tail or 'no message'}", _NEXT.get(-code, ""))
        return done["done"]


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


def report(message: Message) -> None:
    """One line to the parent."""
    print(json.dumps(message), flush=True)


def _raise(error: Message) -> None:
    kind = getattr(runtimes.errors, error["type"], CdmExportError)
    raise kind(error["message"], error["next_step"])
