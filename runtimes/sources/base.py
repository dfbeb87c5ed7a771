"""What every frame source gives, and how to walk through one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from cdm_export.runtimes.frame import Frame


@dataclass(frozen=True)
class SourceFrame:
    """One frame as it came from its source, with the sensor's own numbers beside the meters."""

    name: str
    """Unique within the source; good as the stem of a file name."""
    frame: Frame
    """Color, and where the source has them depth in meters, the right image of a pair, and a calibration."""
    raw_depth: NDArray[Any] | None = None
    """[H, W] as stored: integer sensor units, or floating point meters; None when the frame has no depth."""
    depth_scale: float = 1.0
    """Meters = ``raw_depth / depth_scale``; 1 when ``raw_depth`` is meters already."""
    notes: tuple[str, ...] = ()
    """What was made of its files on the way, in sentences: worth a note."""


class FrameSource(Protocol):
    """Frames by index, each loaded when asked for, so that a broken one can be reported and skipped.

    ``for i, name in enumerate(source.names): source.load(i)`` holds one frame in memory at a time, as often as wanted.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the frames in order; known without loading any."""

    @property
    def description(self) -> str:
        """What this is, for manifests and messages; holds no path of this machine."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file it reads, so that nobody writes over one; empty when frames come from no files of the user's."""

    @property
    def unpaired(self) -> tuple[str, ...]:
        """Files that look like frames but belong to none: worth a warning."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sentences about files that look like images and are not read, and why: worth a note."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> SourceFrame:
        """Frame ``names[index]``. Raises InputError when it cannot be used; the others still can."""


def frames(source: FrameSource) -> Iterator[SourceFrame]:
    """Every frame in order, one in memory at a time; the first broken one raises InputError."""
    return (source.load(index) for index in range(len(source)))
