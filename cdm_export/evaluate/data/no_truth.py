"""Truth where no benchmark gives one: the scene that ships with scikit-image, and readings that were hidden."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cdm_export.evaluate.data.base import Item, Needs
from cdm_export.evaluate.protocols import FOLDER_DEPTH, FOLDER_STEREO, DepthProtocol, StereoProtocol
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.processing.depth import usable
from cdm_export.runtimes.sources import open_source, sample_truth
from cdm_export.runtimes.sources.sample import SampleSource

_HIDDEN_PIXELS = 0.1
"""Share of the readings that are hidden one by one."""
_RECTANGLES = 8
_RECTANGLE_SIDE = 0.15
"""Largest side of a hidden rectangle, share of the image's."""
_FARTHEST = 1000.0
"""Meters; a reading beyond is none."""


class SampleData:
    """Middlebury's Motorcycle, 741x500: as a pair with its disparity, or with simulated sensor depth and its depth."""

    names = ("motorcycle",)
    files = ()

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._source = SampleSource(needs.right)
        self.description = self._source.description
        self.protocol: DepthProtocol | StereoProtocol = FOLDER_STEREO if needs.right else FOLDER_DEPTH

    def load(self, index: int) -> Item:
        """See ``DataSet``."""
        source, depth = self._source.load(index), sample_truth()
        if not self._needs.right:
            return Item(source, depth)
        stereo = source.frame.stereo
        assert stereo is not None and stereo.baseline is not None
        with np.errstate(divide="ignore"):
            disparity = np.where(depth > 0, stereo.left.fx * stereo.baseline / depth - stereo.doffs, 0)
        return Item(source, disparity.astype(np.float32))


class HiddenReadings:
    """Any frames with sensor depth: a tenth of the readings and some rectangles are taken out, and are the truth.

    What is measured is how well a network predicts what the sensor saw, not what it missed. The same in every run.
    """

    protocol: DepthProtocol | StereoProtocol = FOLDER_DEPTH

    def __init__(self, frames: str, needs: Needs, depth_scale: float) -> None:
        if not needs.depth:
            raise InputError(
                "hidden readings are a truth for what refines sensor depth",
                "Give data with a truth: --data folder:PATH.",
            )
        self._source = open_source(frames, depth_scale=depth_scale)
        self.names = self._source.names
        self.files = self._source.files
        self.description = f"hidden readings of {self._source.description}"

    def load(self, index: int) -> Item:
        """See ``DataSet``."""
        source = self._source.load(index)
        depth = source.frame.depth
        assert depth is not None  # the source was asked for it
        hidden = usable(depth, _FARTHEST) & _chosen(depth.shape, index)
        if not hidden.any():
            raise InputError(f"{source.name}: the depth image has too few readings to hide some")
        shown = replace(source.frame, depth=np.where(hidden, np.float32(0), depth))
        return Item(replace(source, frame=shown, raw_depth=None), np.where(hidden, depth, np.float32(0)))


def _chosen(shape: tuple[int, ...], seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    chosen = rng.random(shape) < _HIDDEN_PIXELS
    for _ in range(_RECTANGLES):
        height, width = (max(1, int(rng.uniform(0.3, 1) * _RECTANGLE_SIDE * side)) for side in shape)
        top, left = rng.integers(shape[0] - height + 1), rng.integers(shape[1] - width + 1)
        chosen[top : top + height, left : left + width] = True
    return chosen
