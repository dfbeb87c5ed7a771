"""More frames than a source has: its own, then their mirror images. What a batch is checked on must differ."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.frame import Frame
from runtimes.sources.base import FrameSource, SourceFrame

_AXES: dict[str, tuple[int, ...]] = {"mirrored": (1,), "upside-down": (0,), "turned": (0, 1)}
"""Ending of a name, and the axes that are flipped: every reading stays what the sensor gave."""


class MirroredSource:
    """A source, followed by as many mirror images of its frames as make ``count``, or all three of each."""

    def __init__(self, source: FrameSource, count: int) -> None:
        self._source = source
        made = [(index, ending) for ending in _AXES for index in range(len(source))]
        self._made = made[: max(0, count - len(source))]
        self.names = source.names + tuple(f"{source.names[index]}-{ending}" for index, ending in self._made)
        self.unpaired = source.unpaired
        self.files = source.files
        self.description = source.description + (f" and {len(self._made)} mirror image(s)" if self._made else "")

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``. Raises InputError when the one it is made from cannot be used."""
        if index < len(self._source):
            return self._source.load(index)
        original, ending = self._made[index - len(self._source)]
        loaded = self._source.load(original)
        frame, axes = loaded.frame, _AXES[ending]

        def flipped(image: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if image is None else np.ascontiguousarray(np.flip(image, axes))

        rgb = flipped(frame.rgb)
        assert rgb is not None
        mirrored = Frame(rgb=rgb, depth=flipped(frame.depth), captured_at=frame.captured_at)
        return SourceFrame(self.names[index], mirrored, flipped(loaded.raw_depth), loaded.depth_scale)
