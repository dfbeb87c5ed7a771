"""What every data set gives: a frame with the truth about it."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cdm_export.evaluate.metrics import Mask
from cdm_export.evaluate.protocols import DepthProtocol, StereoProtocol
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.base import SourceFrame


class TruthKind(str, Enum):
    """What the numbers of a truth are."""

    DEPTH = "depth"
    """Meters."""
    DISPARITY = "disparity"
    """Pixels of the left image, above 0."""


@dataclass(frozen=True)
class Needs:
    """What has to be in a frame for a network, or a baseline, to make something of it."""

    depth: bool = False
    """A sensor's depth image."""
    right: bool = False
    """The right image of a pair."""

    @property
    def truth(self) -> TruthKind:
        """What its answer can be compared with."""
        return TruthKind.DISPARITY if self.right else TruthKind.DEPTH


@dataclass(frozen=True)
class Item:
    """One frame and the truth about it."""

    source: SourceFrame
    """The frame, with a name that is unique in the data set."""
    truth: NDArray[np.float32]
    """[H, W] at the frame's size, meters or pixels; 0, NaN and Inf where there is none."""
    visible: Mask | None = None
    """[H, W] pixels that count, where the data set says so."""

    def __post_init__(self) -> None:
        frame = self.source.frame
        if self.truth.shape != frame.rgb.shape[:2]:
            height, width = self.truth.shape
            raise InputError(f"{self.source.name}: the truth is {width}x{height}, the frame {frame.size}")
        if not (np.isfinite(self.truth) & (self.truth > 0)).any():
            raise InputError(f"{self.source.name}: the truth has no pixel above 0")


class DataSet(Protocol):
    """Items by index, each loaded when asked for, so that a broken one can be named."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the frames, in order."""

    @property
    def description(self) -> str:
        """For results and messages; holds no path of this machine."""

    @property
    def protocol(self) -> DepthProtocol | StereoProtocol:
        """How it is judged."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file it reads, so that nobody writes over one."""

    def load(self, index: int) -> Item:
        """Item ``names[index]``. Raises InputError that names what is missing or wrong."""
