"""Anonymous memory of a process tree, sampled: what an export really occupies.

RssAnon (proc(5)) counts private pages that no file backs; a memory-mapped checkpoint or weight file is not in it,
because the kernel can drop such pages at any time.
"""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TreeRun:
    """A finished command."""

    exit_code: int
    """Of the command."""
    seconds: float
    """Wall clock."""
    peak_rss_anon: int
    """Bytes: largest sum of RssAnon over the command and all its descendants at one sample."""
    samples: int
    """Samples taken."""
    timeline: list[tuple[float, int]]
    """(seconds, bytes), thinned to at most 200 points."""


def run_sampled(command: Sequence[str], interval: float = 0.02) -> TreeRun:
    """Run a command to its end while sampling the memory of its process tree (Linux)."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    timeline: list[tuple[float, int]] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(interval):
            timeline.append((time.monotonic() - started, _tree_rss_anon(process.pid)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        code = process.wait()
    finally:
        done.set()
        sampler.join()
    seconds = time.monotonic() - started
    thin = max(1, len(timeline) // 200)
    peak = max((rss for _, rss in timeline), default=0)
    kept = [(round(second, 2), max(rss for _, rss in timeline[i : i + thin])) for i, (second, _) in
            enumerate(timeline) if i % thin == 0]  # fmt: skip
    return TreeRun(code, seconds, peak, len(timeline), kept)


def _tree_rss_anon(root: int) -> int:
    """Sum over the process and its descendants; a process that ends meanwhile counts as nothing."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting.extend(int(child) for child in (task / "children").read_text().split())
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += 1024 * int(line.split()[1])
        except OSError:
            continue
    return total
