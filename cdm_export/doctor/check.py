"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CheckResult:
    """What was looked at, and what was found."""

    subject: str
    """What was looked at."""
    status: Literal["ok", "missing", "problem"]
    """``ok``, ``missing`` (an option that is not installed), or ``problem`` (something is wrong)."""
    detail: str
    """What was found."""
    command: str = ""
    """What to type; empty when there is nothing to do."""
