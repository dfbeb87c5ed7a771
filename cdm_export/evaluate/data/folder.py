"""A folder of the user's own: frames as every command reads them, each with a truth beside it."""

from pathlib import Path

from cdm_export.evaluate.data.base import Item, Needs, TruthKind
from cdm_export.evaluate.protocols import FOLDER_DEPTH, FOLDER_STEREO, DepthProtocol, StereoProtocol
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources import Reading, read_depth
from cdm_export.runtimes.sources.folder import FolderSource

DISPARITY_SCALE = 256.0
"""Units of a 16-bit disparity image per pixel, as KITTI stores it."""
_ENDINGS = {TruthKind.DEPTH: "truth", TruthKind.DISPARITY: "disparity"}
_SUFFIXES = (".png", ".npy")


class FolderData:
    """``STEM.color.*`` (and ``STEM.depth.*``) with ``STEM.truth.png`` (sensor units) or ``.npy`` (meters); for pairs
    ``STEM.left.*`` and ``STEM.right.*`` with ``STEM.disparity.png`` (16 bits, pixels x 256, 0 = none) or ``.npy``
    (pixels)."""

    def __init__(self, path: Path, needs: Needs, depth_scale: float) -> None:
        if not path.is_dir():
            raise InputError(f"{path} is no folder", "Give one with frames and their truth: --data folder:PATH")
        self._kind, self._depth_scale = needs.truth, depth_scale
        self._source = FolderSource(path, Reading(depth_scale, needs.depth, needs.right))
        self.names = self._source.names
        self.description = f"folder {path.resolve().name} ({len(self.names)} frames)"
        self.protocol: DepthProtocol | StereoProtocol = FOLDER_STEREO if needs.right else FOLDER_DEPTH
        self._truth = {name: self._find(path, name) for name in self.names}
        self.files = (*self._source.files, *self._truth.values())

    def load(self, index: int) -> Item:
        """See ``DataSet``."""
        name = self.names[index]
        scale = DISPARITY_SCALE if self._kind is TruthKind.DISPARITY else self._depth_scale
        return Item(self._source.load(index), read_depth(self._truth[name], scale)[1])

    def _find(self, folder: Path, name: str) -> Path:
        stem = f"{name}.{_ENDINGS[self._kind]}"
        found = [path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
        if len(found) > 1:
            raise InputError(f"two files claim to be the truth of {name}: {found[0].name} and {found[1].name}")
        if found:
            return found[0]
        other = next(kind for kind in TruthKind if kind is not self._kind)
        if any((folder / f"{name}.{_ENDINGS[other]}{suffix}").is_file() for suffix in _SUFFIXES):
            raise InputError(
                f"{name} has a truth in {other.value}, and what is evaluated gives {self._kind.value}",
                f"Expected {stem}.png or {stem}.npy.",
            )
        raise InputError(f"{name} has no truth in {folder}", f"Expected {stem}.png or {stem}.npy beside it.")
