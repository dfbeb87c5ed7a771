"""Where the frame lies in a network input that is larger, and what lies beside it."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ModelContract


def window(contract: ModelContract) -> tuple[slice, slice]:
    """(rows, columns) of the network's input that the frame fills: all of it without padding."""
    network, content = contract.network, contract.content
    top, left = 0, 0
    if contract.sizing.padding == "center":
        top, left = (network.height - content.height) // 2, (network.width - content.width) // 2
    return slice(top, top + content.height), slice(left, left + content.width)


def pad_around(plane: NDArray[Any], inside: tuple[slice, slice], padding: str) -> None:
    """Fill ``plane`` [h, w] outside the window ``inside``: zeros, or the window's border repeated (``edge``)."""
    rows, columns = inside
    height, width = plane.shape
    if (rows.stop - rows.start, columns.stop - columns.start) == plane.shape:
        return
    border = cv2.BORDER_REPLICATE if padding == "edge" else cv2.BORDER_CONSTANT
    filled = np.ascontiguousarray(plane[inside])
    cv2.copyMakeBorder(
        filled, rows.start, height - rows.stop, columns.start, width - columns.stop, border, dst=plane, value=0
    )
