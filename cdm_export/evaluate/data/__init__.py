"""Frames with truth: a data set is named ``KIND:PATH``, and judged by the protocol of its kind."""

from collections.abc import Callable
from pathlib import Path

from cdm_export.evaluate.data.base import DataSet, Item, Needs, TruthKind
from cdm_export.evaluate.data.folder import FolderData
from cdm_export.evaluate.data.no_truth import HiddenReadings, SampleData
from cdm_export.evaluate.data.stereo_layouts import KittiStereo2015, Middlebury, TartanAir
from cdm_export.runtimes.errors import InputError, did_you_mean
from cdm_export.runtimes.sources.images import require_scale

__all__ = ["KINDS", "DataSet", "Item", "Needs", "TruthKind", "open_data"]

_STEREO: dict[str, Callable[[Path], DataSet]] = {
    "kitti-stereo-2015-occ": lambda path: KittiStereo2015(path, "occ"),
    "kitti-stereo-2015-noc": lambda path: KittiStereo2015(path, "noc"),
    "middlebury": Middlebury,
    "tartanair": TartanAir,
}
KINDS = ("folder", "hidden", "sample", *_STEREO)
"""What ``--data`` takes before the colon."""


def open_data(text: str, needs: Needs, depth_scale: float) -> DataSet:
    """The data set that ``KIND:PATH`` names; ``sample`` has no path.

    Looks at names only. Raises InputError for an unknown kind, one that what is evaluated cannot be judged by, and a
    folder that lacks what its layout has.
    """
    require_scale(depth_scale)
    kind, _, path = text.partition(":")
    if kind not in KINDS:
        raise InputError(f"--data: unknown kind '{kind}'. {did_you_mean(kind, list(KINDS))}", "Give KIND:PATH.")
    if kind == "sample":
        if path:
            raise InputError(f"--data sample has no path, got '{path}'")
        return SampleData(needs)
    if not path:
        raise InputError(f"--data {kind} needs a path", f"Give it as --data {kind}:PATH")
    if kind == "folder":
        return FolderData(Path(path).expanduser(), needs, depth_scale)
    if kind == "hidden":
        return HiddenReadings(path, needs, depth_scale)
    if not needs.right:
        raise InputError(
            f"--data {kind} judges disparity of pairs, and what is evaluated reads one image",
            "Give depth with a truth: --data folder:PATH.",
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    return _STEREO[kind](folder)
