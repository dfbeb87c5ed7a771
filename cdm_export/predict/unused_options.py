"""Options that would do nothing for a model: refused, since whoever gives one believes that it does something."""

from pathlib import Path

from cdm_export.runtimes.contract import ModelContract, Semantics
from cdm_export.runtimes.errors import InputError


def check_max_depth(contract: ModelContract, max_depth: float | None, reads_depth: bool) -> None:
    """Raises InputError for ``max_depth`` where no sensor depth is read.

    In Depth Anything's own scripts an option of this name is the range of the network's head.
    """
    if max_depth is None or reads_depth:
        return
    if contract.semantics is Semantics.METRIC_DEPTH:
        advice = (
            "If the weights were trained with another --max-depth of Depth Anything's own scripts, that is the range "
            f"of the network's head: export them with --head-range {max_depth:g}."
        )
    else:
        advice = "Leave it out."
    raise InputError(
        f"{contract.model} reads no sensor depth: --max-depth {max_depth:g}, beyond which sensor readings are dropped, "
        "has no meaning",
        advice,
    )


def check_far(contract: ModelContract, far: float | None, scaled_by_sensor: bool = False) -> None:
    """Raises InputError for ``far`` where the result has no meters, or has those of a known range."""
    if far is None or contract.metric or scaled_by_sensor:
        return
    raise InputError(
        f"{contract.model} gives no meters of its own: --far {far:g}, beyond which depth is invalid, has no meaning",
        "Leave it out; with --meters NEAR:FAR nothing is farther than FAR, and --meters sensor takes --far.",
    )


def check_depth_scale(contract: ModelContract, depth_scale: float | None, has_depth: bool) -> None:
    """Raises InputError for a ``depth_scale`` that somebody gave where no depth image is read."""
    if depth_scale is None or has_depth:
        return
    raise InputError(
        f"{contract.model} reads no sensor depth, and no depth image is given: --depth-scale {depth_scale:g} has no "
        "meaning",
        "Leave it out.",
    )


def check_pair(
    contract: ModelContract, pairs: bool, *, right: Path | None, calibration: Path | None, scale_calibration: bool
) -> None:
    """Raises InputError for parts of a stereo pair where one image is read."""
    options = {
        "--right": right is not None,
        "--calib": calibration is not None,
        "--scale-calibration": scale_calibration,
    }
    given = next((option for option, there in options.items() if there), None)
    if given is None or pairs:
        return
    raise InputError(
        f"{contract.model} reads one image: {given}, for stereo models, has no meaning",
        "Leave it out.",
    )
