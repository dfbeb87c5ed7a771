"""Whether a depth image looks like meters: for the command line, where a wrong scale is a typing error."""

import numpy as np

from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources.base import SourceFrame

NEAREST = 0.1
"""Meters. No depth camera measures closer."""

_ENOUGH = 0.10  # Share of readings in range below which the scale is doubtful; real scenes have over half.
_SCALES = (1000.0, 5000.0, 10000.0, 4000.0, 256.0, 1.0)  # mm, TUM, 0.1 mm, 1/4 mm, KITTI, meters.
_PLAUSIBLE = (0.3, 6.0)  # Meters; the median of an indoor frame.
_TYPICAL = 2.0  # Meters; of several plausible scales, the one whose median is nearest to this comes first.


def check_depth(source_frame: SourceFrame, max_depth: float) -> list[str]:
    """Warnings about the depth of one frame, empty when it looks right or there is none.

    ``max_depth`` in meters is where readings stop counting. Warns when under 10 % of the readings lie between
    0.1 m and ``max_depth``, and names the scales that would help. Raises InputError when no pixel has a reading.
    """
    depth, raw = source_frame.frame.depth, source_frame.raw_depth
    if depth is None:
        return []
    readings = depth[np.isfinite(depth) & (depth > 0)]
    if not readings.size:
        raise InputError(
            f"{source_frame.name}: no pixel of the depth image has a reading, all are 0, negative, NaN or Inf",
            "Check that the lens is not covered, and that this is the depth image of the frame.",
        )
    share = float(np.mean((readings >= NEAREST) & (readings <= max_depth)))
    if share >= _ENOUGH:
        return []
    stored_meters = raw is None or np.issubdtype(raw.dtype, np.floating)
    scale = 1.0 if stored_meters else source_frame.depth_scale
    median = float(np.median(readings))
    message = (
        f"{source_frame.name}: only {share:.0%} of the readings lie between {NEAREST:g} and {max_depth:g} m "
        + ("read as meters" if stored_meters else f"at --depth-scale {scale:g}")
        + f" (median {_meters(median)})"
    )
    better = {each: median * scale / each for each in _SCALES if each != scale}
    plausible = sorted(
        (each for each, meters in better.items() if _PLAUSIBLE[0] <= meters <= min(_PLAUSIBLE[1], max_depth)),
        key=lambda each: abs(np.log(better[each] / _TYPICAL)),
    )[:2]
    if not plausible:
        return [message]
    if stored_meters:
        return [f"{message}; divided by {plausible[0]:g}, the median would be {_meters(better[plausible[0]])}"]
    suggestions = ", ".join(
        f"--depth-scale {each:g} would give a median of {_meters(better[each])}" for each in plausible
    )
    return [f"{message}; {suggestions}"]


def _meters(value: float) -> str:
    return f"{value:.3g} m"
