"""The machine's peak of float32 products, as one more runner of a race: a large matrix product per request."""

import time

import torch

from cdm_export.bench.worker import Done, memory
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.isolated import report, requests, serve


class GemmJob(Record):
    """What to multiply."""

    side: int
    """Of the square matrices; large enough to come near the peak."""
    threads: int
    """Compute threads."""


def _work(text: str) -> Done:
    job = GemmJob.model_validate_json(text)
    torch.set_num_threads(job.threads)
    started = time.perf_counter()
    left, right = (torch.rand(job.side, job.side) for _ in range(2))
    out = torch.empty(job.side, job.side)

    def multiply() -> float:
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        return 1e3 * (time.perf_counter() - began)

    opened = 1e3 * (time.perf_counter() - started)
    report({"open_ms": opened, "first_ms": multiply(), "description": {"torch": torch.__version__}})
    for _ in requests():
        milliseconds = multiply()
        report({"stages": {"inference": milliseconds, "total": milliseconds}, **memory()})
    return Done()


if __name__ == "__main__":
    serve(_work)
