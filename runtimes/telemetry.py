"""Nothing phones home: the libraries' own telemetry is off before they are imported, in every process of ours.

Only this process and its children are told; no file of the user's is written, so that what somebody chose for their
own use of a library stays as it is. Nothing else here imports these two libraries.
"""

import importlib
import os
import sys
from typing import Any

QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""Environment of every process of ours. ONNX Runtime (seen in 1.31) reads it while it is loaded; without it it writes
a device id to ``~/.cache/Microsoft`` and sends events to mobile.events.data.microsoft.com after a while."""

_OPENVINO_TELEMETRY = "openvino_telemetry"


def switch_off() -> None:
    """Set what the libraries look for in the environment, for this process and its children."""
    os.environ.update(QUIET)


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``, silent. Raises ImportError."""
    switch_off()
    import onnxruntime

    # Where the caller had imported it before us the variable comes too late; versions without telemetry lack this.
    disable = getattr(onnxruntime, "disable_telemetry_events", None)
    if disable is not None:
        disable()
    return onnxruntime


def import_openvino() -> Any:
    """The module ``openvino``, silent. Raises ImportError.

    Its import sends an event to Google Analytics and writes ``~/intel`` (seen in 2026.4) unless the package
    ``openvino_telemetry`` cannot be imported; then it uses a stub of its own, which does nothing. There is no other
    switch than a file in the user's home.
    """
    switch_off()
    if "openvino" in sys.modules:
        return importlib.import_module("openvino")
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_telemetry(name)}
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say: not to be had
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_OPENVINO_TELEMETRY]
        sys.modules.update(hidden)


def _is_telemetry(name: str) -> bool:
    return name == _OPENVINO_TELEMETRY or name.startswith(_OPENVINO_TELEMETRY + ".")
