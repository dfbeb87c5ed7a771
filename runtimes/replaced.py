"""What to do when a bundle is replaced while it is opened: open all of it again, once."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from cdm_export.runtimes.errors import BundleChanged

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def once_more_when_replaced(work: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """Decorator of work that opens a bundle by its path and has written nothing when BundleChanged is raised.

    It begins again, once; the second BundleChanged reaches the caller.
    """

    @functools.wraps(work)
    def done(*given: _Given.args, **named: _Given.kwargs) -> _Made:
        try:
            return work(*given, **named)
        except BundleChanged:
            return work(*given, **named)

    return done
