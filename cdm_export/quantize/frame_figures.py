"""Do the calibration frames look like those that INT8 is judged on? Measured on the frames alone, before any long work.

Ranges are taken from calibration frames: what these do not show is cut off. A network trained on depth feels another
distance, other holes or another light in its activations (issue 19, line 11).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cdm_export.parity.golden import ReferenceFrame, load_reference, raw_frame
from cdm_export.progress import Progress
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.frame import Frame

_TIMES_DEPTH = 1.5
"""Activations follow 1/m in proportion, and one step of an 8-bit range that is 1.5 times too long costs half a bit."""
_TIMES_BRIGHTNESS = 2.0
"""One stop of exposure: what a camera's automatic exposure leaves between scenes."""
_MISSING = 0.3
"""Difference of shares; scenes of one sensor differ by 0.1 to 0.2."""


@dataclass(frozen=True)
class FrameFigures:
    """Of one frame."""

    brightness: float
    """Mean of the color image, 0 to 1."""
    missing: float | None
    """Share of pixels without a reading in range; None where the model reads no depth."""
    near: float | None
    """5th percentile of the readings in range, m; None without any."""
    median: float | None
    """Median of them, m."""
    far: float | None
    """95th percentile of them, m."""


def figures_of(frame: Frame, max_depth: float | None) -> FrameFigures:
    """``frame``: rgb [H, W, 3] uint8, depth [H, W] float32 m or None; readings beyond ``max_depth`` m are missing.

    ``max_depth`` None where the model reads no depth: then brightness is all there is.
    """
    brightness = float(frame.rgb.mean()) / 255
    if frame.depth is None or max_depth is None:
        return FrameFigures(brightness, None, None, None, None)
    used = np.isfinite(frame.depth) & (frame.depth > 0) & (frame.depth <= max_depth)
    missing = 1 - float(used.mean())
    if not used.any():
        return FrameFigures(brightness, missing, None, None, None)
    near, median, far = (float(value) for value in np.percentile(frame.depth[used], (5, 50, 95)))
    return FrameFigures(brightness, missing, near, median, far)


def unlike(calibration: Sequence[FrameFigures], verification: Sequence[FrameFigures]) -> list[str]:
    """What verification frames have and no calibration frame comes near, with both figures; empty where all is shown.

    Near: the median distance within a factor 1.5 of what the calibration frames cover, brightness within 2, the share
    of missing readings within 0.3. Readings nearer or farther count where calibration frames have none within 1.5.
    """
    found = []
    for name, unit, attribute, times, below, above in (
        ("the median of the readings", " m", "median", _TIMES_DEPTH, True, True),
        ("the near end of the readings", " m", "near", _TIMES_DEPTH, True, False),
        ("the far end of the readings", " m", "far", _TIMES_DEPTH, False, True),
        ("the mean brightness", "", "brightness", _TIMES_BRIGHTNESS, True, True),
    ):
        ours, theirs = _present(calibration, attribute), _present(verification, attribute)
        if not (ours and theirs):
            continue
        if (below and times * min(theirs) < min(ours)) or (above and max(theirs) > times * max(ours)):
            found.append(f"{name} is {_range(ours)}{unit} in them, {_range(theirs)}{unit} in those it is verified on")
    ours, theirs = _present(calibration, "missing"), _present(verification, "missing")
    if ours and theirs and (max(theirs) > max(ours) + _MISSING or min(theirs) < min(ours) - _MISSING):
        found.append(
            f"the share of missing readings is {_range(ours)} in them, {_range(theirs)} in those it is verified on"
        )
    return found


def warn_of_unlike_frames(
    calibration: Sequence[ReferenceFrame],
    verification: Sequence[ReferenceFrame],
    contract: ModelContract,
    progress: Progress,
) -> None:
    """One warning where the sets are unlike; their frames lie prepared on disk. Nothing without calibration frames."""
    if not calibration:
        return
    max_depth = contract.max_depth if contract.reads("depth") else None
    found = unlike(list(_read(calibration, max_depth)), list(_read(verification, max_depth)))
    if found:
        progress.warn(
            f"int8's calibration frames are unlike those it is verified on: {'; '.join(found)}. What they do not show "
            "is cut off, and int8 may be dropped for it: calibrate on frames of the robot's own camera and places"
        )


def _read(frames: Sequence[ReferenceFrame], max_depth: float | None) -> Iterator[FrameFigures]:
    for frame in frames:
        yield figures_of(raw_frame(load_reference(frame.path)), max_depth)


def _present(frames: Sequence[FrameFigures], attribute: str) -> list[float]:
    values = (getattr(frame, attribute) for frame in frames)
    return [value for value in values if value is not None]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
