"""Two probes -> a search's ``evaluate``."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdm_export.bisect.measures import Measure, measure
from cdm_export.bisect.probe import Probe
from cdm_export.bisect.search import Evaluate
from cdm_export.progress import Progress
from cdm_export.runtimes.errors import ParityError


def comparable(reference: Probe, candidate: Probe) -> tuple[list[str], dict[str, str]]:
    """Names both probes show in the same shape; and the reference's others, each with what is in the way."""
    shown, left_out = [], {}
    for name, shape in reference.stages.items():
        other = candidate.stages.get(name)
        if other == shape:
            shown.append(name)
        elif other is None:
            left_out[name] = f"{candidate.name} does not show it"
        else:
            left_out[name] = f"{list(shape)} in {reference.name}, {list(other)} in {candidate.name}"
    return shown, left_out


def evaluator(
    reference: Probe, candidate: Probe, stages: Sequence[str], tolerance: float, progress: Progress
) -> Evaluate:
    """``evaluate`` for a search over ``stages``. The reference runs once, here, and shows everything.

    ``evaluate`` raises ParityError, naming the stage, for one that a probe did not show, that has another shape,
    or that is not finite in the reference.
    """
    progress.stage(f"{reference.name}: {len(stages)} stages")
    truth = _outputs(reference, stages)

    def evaluate(names: Sequence[str]) -> dict[str, Measure]:
        progress.stage(f"{candidate.name}: " + (f"'{names[0]}'" if len(names) == 1 else f"{len(names)} stages"))
        seen = _outputs(candidate, names)
        return {name: measure(name, truth[name], seen[name], tolerance) for name in names}

    return evaluate


def _outputs(probe: Probe, stages: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    outputs = probe.outputs(stages)
    for name in stages:
        if name not in outputs:
            raise ParityError(f"{probe.name} was asked for '{name}' and did not show it")
    return outputs
