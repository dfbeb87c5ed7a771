"""One color image, and one depth image where there is one."""

from pathlib import Path

from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.sources.base import FrameSource, SourceFrame
from cdm_export.runtimes.sources.fit import AtCameraSize
from cdm_export.runtimes.sources.images import load_pair


class SingleSource:
    """The frame somebody named on the command line."""

    unpaired: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self, color: Path, depth: Path | None, depth_scale: float) -> None:
        self._color, self._depth, self._depth_scale = color, depth, depth_scale
        self.files = (color,) if depth is None else (color, depth)
        self.names = (color.name.split(".")[0] or "frame",)
        self.description = " with ".join(path.name for path in self.files)

    @classmethod
    def open(cls, color: Path, depth: Path | None, depth_scale: float, camera: Size, fit: bool) -> FrameSource:
        """The frame at camera size; another size is refused, or fitted when ``fit`` is set."""
        return AtCameraSize(cls(color, depth, depth_scale), camera, fit)

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> SourceFrame:
        """The frame. Raises InputError when a file cannot be used."""
        return load_pair(self.names[index], self._color, self._depth, self._depth_scale)
