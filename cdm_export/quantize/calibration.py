"""What calibration found so far, kept in the cache after every step: an interrupted search goes on where it was."""

import hashlib
from pathlib import Path

from pydantic import Field, ValidationError

from cdm_export.runtimes.cache import cache_dir, write_atomically
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.quantization import CalibrationIdentity, Trial

PROCEDURE = 3
"""Raised whenever what may be quantized, observers, smoothing or search change."""
_EVERY = 4
"""One of so many calibration frames judges, and no range is taken from it."""


def split(count: int) -> tuple[list[int], list[int]]:
    """Indices of the calibration frames that ranges are taken from, and of those held out: the fourth, the eighth, ...

    Of fewer than four none is held out: there the ranges need all of them.
    """
    held_out = list(range(_EVERY - 1, count, _EVERY))
    return [index for index in range(count) if index not in held_out], held_out


class Calibration(Record):
    """Measured once per identity."""

    identity: CalibrationIdentity
    """What it was measured on."""
    plain: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Bounds by observer and layer, before smoothing."""
    strengths: dict[str, float] = Field(default_factory=dict)
    """Chosen strength per smoothable layer."""
    scales: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Chosen scales per smoothable layer, powers of two."""
    smoothed: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Bounds by observer and layer, after smoothing."""
    max_abs: dict[str, float | None] = Field(
        default_factory=dict, validation_alias="peaks", serialization_alias="peaks"
    )
    """Largest magnitude per module in the form that was chosen (``RangeScan``); None where it was no number."""
    trials: dict[str, Trial] = Field(default_factory=dict)
    """Simulated so far, by what was quantized."""


class CalibrationStore:
    """One file in the cache."""

    def __init__(self, identity: CalibrationIdentity) -> None:
        """Raises InputError for a file that belongs to another identity or cannot be read."""
        digest = hashlib.sha256(identity.model_dump_json().encode()).hexdigest()
        self.path: Path = cache_dir() / "calibration" / f"{digest[:16]}.json"
        self.resumed = self.path.exists()
        """Whether something was there."""
        self.found = self._load(identity) if self.resumed else Calibration(identity=identity)
        """What is known."""

    def _load(self, identity: CalibrationIdentity) -> Calibration:
        again = f"Remove it and calibrate again: rm {self.path}"
        try:
            found = Calibration.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(
                f"calibration cache {self.path} cannot be read: {str(error).splitlines()[0]}", again
            ) from None
        for name, expected in identity:
            if (got := getattr(found.identity, name)) != expected:
                raise InputError(
                    f"calibration cache {self.path} is of other {name}: expected {expected}, got {got}", again
                )
        return found

    def add(self, **found: object) -> Calibration:
        """Remember fields, on disk too; the file is whole at any time."""
        self.found = self.found.model_copy(update=found)
        write_atomically(self.path, self.found.model_dump_json().encode())
        return self.found
