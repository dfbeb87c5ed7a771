"""More frames than a source has: its own, then their mirror images. What a batch is checked on must differ."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.sources.base import FrameSource, SourceFrame
from cdm_export.runtimes.sources.fit import AnyCalibration

_AXES: dict[str, tuple[int, ...]] = {"mirrored": (1,), "upside-down": (0,), "turned": (0, 1)}
"""Ending of a name, and the axes that are flipped: every reading stays what the sensor gave."""


class MirroredSource:
    """A source, followed by as many mirror images of its frames as make ``count``, or all three of each.

    A flip from left to right turns the cameras of a stereo pair round too: what was seen from the right is now seen
    from the left. The flipped right image becomes the left one, and the other way round, so that disparity stays
    positive. An upside-down flip keeps the sides. Calibrations are flipped with the images.
    """

    def __init__(self, source: FrameSource, count: int) -> None:
        self._source = source
        made = [(index, ending) for ending in _AXES for index in range(len(source))]
        self._made = made[: max(0, count - len(source))]
        self.names = source.names + tuple(f"{source.names[index]}-{ending}" for index, ending in self._made)
        self.unpaired = source.unpaired
        self.left_out = source.left_out
        self.files = source.files
        self.description = source.description + (f" and {len(self._made)} mirror image(s)" if self._made else "")

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``. Raises InputError when the one it is made from cannot be used, or when the images of
        its pair would change sides and it has depth: that belongs to the old left image, the new one's is not known.
        """
        if index < len(self._source):
            return self._source.load(index)
        original, ending = self._made[index - len(self._source)]
        loaded = self._source.load(original)
        frame, axes = loaded.frame, _AXES[ending]

        def flipped(image: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if image is None else np.ascontiguousarray(np.flip(image, axes))

        left, right = frame.rgb, frame.right
        if right is not None and 1 in axes:
            of_left = "depth image belongs" if frame.depth is not None else "intrinsics belong"
            if frame.depth is not None or (frame.intrinsics is not None and frame.stereo is None):
                raise InputError(
                    f"{self.names[index]}: flipped from left to right, the right image of a pair becomes the left one, "
                    f"and the {of_left} to the other",
                    "Give as many frames as are needed, or leave out "
                    f"the {of_left.rsplit(' ', 1)[0]} or the right image.",
                )
            left, right = right, left
        rgb = flipped(left)
        assert rgb is not None
        mirrored = Frame(
            rgb,
            depth=flipped(frame.depth),
            right=flipped(right),
            intrinsics=None if frame.stereo or not frame.intrinsics else _flipped(frame.intrinsics, axes),
            stereo=None if frame.stereo is None else _flipped(frame.stereo, axes),
            captured_at=frame.captured_at,
        )
        return replace(loaded, name=self.names[index], frame=mirrored, raw_depth=flipped(loaded.raw_depth))


def _flipped(calibration: AnyCalibration, axes: tuple[int, ...]) -> AnyCalibration:
    """Of images flipped along ``axes``."""
    for axis in axes:
        calibration = calibration.mirrored() if axis == 1 else calibration.upside_down()
    return calibration
