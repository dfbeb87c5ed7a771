"""Colour image -> network input ``image``."""

import cv2
import numpy as np
from numpy.typing import NDArray

from runtimes.contract import Size


def cubic(rgb: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
    """[H, W, 3] uint8 RGB -> [1, 3, h, w] float32, nominally 0..1 (cubic overshoot is kept, as the reference does).

    Resized in float64 because the reference does: OpenCV's float32 kernel is up to 5e-5 away (OpenCV 5.0, noise), and
    resizing the uint8 image would cost 7e-4 of depth.
    """
    image = rgb / 255.0
    if Size.of(image) != size:
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)[None]


RESIZES = {"cubic": cubic}
"""By the name a contract gives (``ModelContract.image_resize``)."""
