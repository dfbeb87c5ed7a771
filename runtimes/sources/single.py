"""One color image, with the depth image, the right image and the calibration that somebody named."""

from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.sources.base import FrameSource, SourceFrame
from cdm_export.runtimes.sources.fit import AtCameraSize
from cdm_export.runtimes.sources.frame_files import FrameFiles, Reading, load_frame


class SingleSource:
    """The frame somebody named on the command line."""

    unpaired: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self, files: FrameFiles, reading: Reading) -> None:
        self._files, self._reading = files, reading
        self.files = files.paths
        self.names = (files.color.name.split(".")[0] or "frame",)
        self.description = " with ".join(path.name for path in self.files)

    @classmethod
    def open(cls, files: FrameFiles, reading: Reading, camera: Size, fit: bool) -> FrameSource:
        """The frame at camera size; another size is refused, or fitted when ``fit`` is set."""
        return AtCameraSize(cls(files, reading), camera, fit)

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> SourceFrame:
        """The frame. Raises InputError when a file cannot be used."""
        return load_frame(self.names[index], self._files, self._reading)
