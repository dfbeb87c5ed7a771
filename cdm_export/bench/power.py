"""Power of a Jetson while something runs, from its INA3221 sensors; nothing elsewhere.

Linux shows a sensor's rails as ``inN_label``, ``inN_input`` (mV) and ``currN_input`` (mA) under ``/sys/class/hwmon``
(kernel documentation, hwmon/ina3221), readable by everyone. A reading is an average over milliseconds, so a call is
judged by the samples of all its repetitions.
"""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdm_export.runtimes.contract import Record

HWMON = Path("/sys/class/hwmon")
_INTERVAL = 0.01
"""Seconds between samples; the sensors renew themselves about as often."""
_TOTALS = (
    ("VDD_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
)
"""Rails that together feed the module: Orin NX, Orin Nano, Xavier NX; AGX Orin; Thor. Memory hangs on the 5 V one."""

Window = tuple[float, float]
"""Begin and end of a call, ``time.perf_counter()`` seconds."""


class Power(Record):
    """Of one entry, while its calls ran."""

    watts: dict[str, float]
    """Mean by rail."""
    rails: tuple[str, ...]
    """Rails that make up the module's power; empty for a board whose rails are not known."""
    joules_per_frame: float | None
    """Module's power x time of a call / its frames, what the board takes at rest included; None without ``rails``."""
    samples: int
    """Readings within the calls."""

    def __str__(self) -> str:
        each = ", ".join(f"{rail} {watts:.2f} W" for rail, watts in self.watts.items())
        if self.joules_per_frame is None:
            return f"{each}; which rails make up the whole is not known for this board"
        return f"{self.joules_per_frame:.3g} J per frame ({' + '.join(self.rails)}); {each}"


@dataclass(frozen=True)
class Rail:
    """One channel of a sensor."""

    name: str
    """As the board's device tree calls it."""
    millivolts: Path
    """File with the voltage."""
    milliamps: Path
    """File with the current."""

    def watts(self) -> float:
        """Now. Raises OSError or ValueError when the sensor does not answer."""
        return int(self.millivolts.read_text()) * int(self.milliamps.read_text()) / 1e6


def find_rails(hwmon: Path = HWMON) -> list[Rail]:
    """Every connected channel of every INA3221; empty where there is none."""
    rails = []
    for chip in sorted(hwmon.glob("hwmon*")):
        if _text(chip / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            name = _text(chip / f"in{channel}_label")
            rail = Rail(name, chip / f"in{channel}_input", chip / f"curr{channel}_input")
            if name not in ("", "NC") and rail.millivolts.is_file() and rail.milliamps.is_file():
                rails.append(rail)
    return rails


@dataclass
class PowerMeter:
    """Reads all rails again and again while its block runs. A context manager."""

    rails: Sequence[Rail] = field(default_factory=find_rails)
    """What to read; without any, nothing happens."""
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    """Time of reading, and watts by rail."""

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "PowerMeter":
        if self.rails:
            self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._done.set()
        if self.rails:
            self._thread.join()

    def _read(self) -> None:
        while not self._done.wait(_INTERVAL):
            with contextlib.suppress(OSError, ValueError):  # a sensor that misses a beat
                self.samples.append((time.perf_counter(), {rail.name: rail.watts() for rail in self.rails}))

    def power(self, windows: Sequence[Window], batch: int) -> Power | None:
        """Of calls that took ``batch`` frames each; None when no reading fell into any of them."""
        within = [watts for moment, watts in self.samples if any(begin <= moment <= end for begin, end in windows)]
        if not within:
            return None
        mean = {name: sum(watts[name] for watts in within) / len(within) for name in within[0]}
        rails = next((names for names in _TOTALS if all(name in mean for name in names)), ())
        seconds = sum(end - begin for begin, end in windows) / len(windows)
        joules = sum(mean[name] for name in rails) * seconds / batch if rails else None
        return Power(watts=mean, rails=rails, joules_per_frame=joules, samples=len(within))


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""
