"""What Python callers give, checked before anything is done with it: our errors, and advice in names of arguments."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

from cdm_export.runtimes.contract import MOST_METERS
from cdm_export.runtimes.errors import CdmExportError, InputError

_FLAG = re.compile(r"--(backend|precision|batch|threads|max-depth|far|checkpoint) (\S+?)(?=[.,;:]?(?:\s|$))")


def check_path(name: str, value: object) -> None:
    """Raise InputError unless ``value`` can be a path: text or ``Path``, not empty, without a NUL."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise InputError(f"{name} must be a path, str or pathlib.Path, got {_kind(value)}")
    if not text or "\0" in text:
        raise InputError(f"{name} must be the path of something, got {text!r}")


def check_name(name: str, value: object) -> None:
    """Raise InputError unless ``value`` is text."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a str, got {_kind(value)}", f"Leave {name} out for 'auto'.")


def check_count(name: str, value: Any, least: int) -> None:
    """Raise InputError unless ``value`` is a whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        got = str(value) if isinstance(value, Integral) else _kind(value)
        raise InputError(f"{name} must be an int of {least} or more, got {got}")


def check_meters(name: str, value: Any) -> None:
    """Raise InputError unless ``value`` is a number of meters above 0 and no larger than any depth."""
    if not is_number(value):
        raise InputError(f"{name} must be a number of meters, got {_kind(value)}")
    if not 0 < value <= MOST_METERS:  # NaN is neither
        raise InputError(f"{name} must be above 0 meters and at most {MOST_METERS:.0f}, got {value}")


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number, NumPy's too, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


@contextmanager
def advice_for_python() -> Iterator[None]:
    """Errors raised inside advise arguments where they advised options of the command line; whole commands stay."""
    try:
        yield
    except CdmExportError as error:
        if "cdm-export " not in error.next_step:
            error.next_step = _FLAG.sub(_argument, error.next_step)
            error.args = (f"{error.message}\n{error.next_step}" if error.next_step else error.message,)
        raise


def _argument(match: "re.Match[str]") -> str:
    name, value = match[1].replace("-", "_"), match[2]
    return f"{name}={value}" if value[0].isdigit() or value.isupper() else f'{name}="{value}"'


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.40}"
