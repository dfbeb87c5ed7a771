"""What tests have done in a process of its own (``isolated.py``)."""

import ctypes
import errno
import os
import signal
import sys
import time

from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.isolated import report, requests, serve


class Job(Record):
    """What to do."""

    what: str
    """One of the cases below."""


def _work(text: str) -> Job:
    job = Job.model_validate_json(text)
    report({"process": os.getpid()})
    match job.what:
        case "busy":
            time.sleep(600)
        case "asked":
            for _ in requests():
                time.sleep(600)
            time.sleep(600)  # a parent that is gone asks nothing more; this one would go on all the same
        case "holds the interpreter":
            ctypes.PyDLL(None).sleep(600)
        case "speaks":
            sys.stderr.buffer.write(b"first\n\nlast words \x1b\nr\xe4\n")
            sys.stderr.flush()
            os._exit(7)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/where.onnx")
    return job


if __name__ == "__main__":
    serve(_work)
