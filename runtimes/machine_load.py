"""Whether something else keeps this machine busy while one measures: then latencies are not the machine's own."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cdm_export.runtimes.host import usable_cpus

_STAT = Path("/proc/stat")
_MOST_SHARE = 0.2
"""Of the CPU time of the usable CPUs that others may take before the machine is called busy."""
_SURE = 2.0
"""Load per CPU that is called busy although others took little CPU time: they wait for the disk, and so do we."""
_SHORTEST = 0.2
"""Seconds below which the system's clock ticks say nothing."""


@dataclass(frozen=True)
class MachineLoad:
    """What others did meanwhile; None where the system does not tell."""

    cpus: int
    """Usable ones."""
    others: float | None
    """CPU time of other processes / time of the usable CPUs, 0..1."""
    load_1min: float | None
    """Load average of the minute before, processes of the whole machine that want to run."""
    all_cpus: int
    """Of the machine, which is what the load average is of."""

    @property
    def busy(self) -> bool:
        """Whether latencies measured meanwhile are in doubt."""
        load = None if self.load_1min is None else self.load_1min / self.all_cpus
        if self.others is None:
            return load is not None and load > 1
        return self.others > _MOST_SHARE or (load is not None and load > _SURE)

    def __str__(self) -> str:
        """What to say of it; empty when the machine is not busy."""
        if not self.busy:
            return ""
        parts = []
        if self.others is not None:
            parts.append(f"others took {self.others:.0%} of the time of {self.cpus} CPU(s)")
        if self.load_1min is not None:
            parts.append(f"load average {self.load_1min:.3g} on {self.all_cpus} CPU(s)")
        return f"the machine was busy with something else ({', '.join(parts)}): latencies are too long, and vary"


class LoadWatch:
    """From its making to ``load``: child processes count as ours once they have ended and were waited for."""

    def __init__(
        self, ticks: Callable[[], float | None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``ticks``: seconds that the usable CPUs have worked so far, for tests."""
        self._ticks = ticks or _busy_seconds
        self._clock = clock
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._start = (self._clock(), self._ticks(), _own_seconds())

    def load(self) -> MachineLoad:
        """What others did since."""
        began, busy_before, own_before = self._start
        elapsed, busy, own = self._clock() - began, self._ticks(), _own_seconds()
        others = None
        # A system that counts nothing (a sandbox) shows no progress at all.
        if busy is not None and busy_before is not None and busy > busy_before and elapsed >= _SHORTEST:
            others = min(max((busy - busy_before - (own - own_before)) / (elapsed * usable_cpus()), 0.0), 1.0)
        return MachineLoad(usable_cpus(), others, self._load, os.cpu_count() or 1)


def _own_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _busy_seconds() -> float | None:
    """Of the CPUs this process may use, all processes together; None where the system does not tell."""
    try:
        lines = _STAT.read_text().splitlines()
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    # user nice system idle iowait irq softirq steal; what a guest takes is in user already
    ticks = [
        sum(int(value) for index, value in enumerate(line.split()[1:9]) if index not in (3, 4))
        for line in lines
        if line and line.split()[0] in ours
    ]
    return sum(ticks) / per_second if ticks else None
