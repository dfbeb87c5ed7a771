"""Which observer, smoothed or not, and which parts had better not be quantized: decided by the error in depth.

Parts are quantized one at a time and ranked by what that does to the depth. The worst are excluded, as few as bring
the whole within its share of the gate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_export.parity.compare import FrameParity, compare
from cdm_export.parity.gates import GATES
from cdm_export.quantize.calibration import CalibrationStore
from cdm_export.quantize.observers import OBSERVERS
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.quantization import Trial

AIM = 0.7
"""Share of the gate that calibration frames may use: the frames it is judged on are others."""
_MOST_KEPT = 0.5
"""Share of the parts: with more of them excluded there is little INT8 left."""

Forms = Mapping[str, Mapping[str, Mapping[str, float]]]
"""``plain`` and ``smoothed`` -> observer -> layer -> step."""
Simulate = Callable[[str, Mapping[str, float], int], Sequence[NDArray[np.float32]]]
"""``simulate(form, steps, count)``: raw outputs of the first ``count`` search frames, ``steps``' layers quantized."""


@dataclass(frozen=True)
class Found:
    """What the search decided."""

    form: str
    """``plain`` or ``smoothed``."""
    observer: str
    """Name in ``OBSERVERS``."""
    excluded: tuple[str, ...]
    """Parts that are not quantized, most sensitive first."""
    trials: dict[str, Trial]
    """Everything quantized, by ``FORM OBSERVER``."""
    sensitivity: dict[str, Trial]
    """One part quantized, by part, most sensitive first."""


def search(
    forms: Forms,
    groups: Mapping[str, Sequence[str]],
    references: Sequence[NDArray[np.float32]],
    contract: ModelContract,
    simulate: Simulate,
    store: CalibrationStore,
    on_trial: Callable[[], None],
) -> Found:
    """Every trial is remembered in ``store`` as soon as it is known, and not made again.

    Raises ParityError when more than half of the parts would have to be excluded.
    """

    def trial(name: str, form: str, steps: Mapping[str, float], count: int = len(references)) -> Trial:
        if name not in store.found.trials:
            outputs = simulate(form, steps, count)
            frames = [
                compare(str(index), reference, output, contract, "int8")
                for index, (reference, output) in enumerate(zip(references[:count], outputs, strict=True))
            ]
            store.add(trials={**store.found.trials, name: summarize(frames)})
        on_trial()
        return store.found.trials[name]

    whole = {
        (form, observer): trial(f"{form} {observer}", form, forms[form][observer])
        for form in forms
        for observer in OBSERVERS
    }
    form, observer = min(whole, key=lambda pair: _share(whole[pair]))
    steps = forms[form][observer]

    def only(parts: Sequence[str]) -> dict[str, float]:
        return {path: steps[path] for part in parts for path in groups[part] if path in steps}

    # One frame is enough to rank them, and there are many.
    single = {part: trial(f"only {part}, {form} {observer}", form, only([part]), 1) for part in groups}
    ranked = sorted(groups, key=lambda part: -_share(single[part]))

    def holds(count: int) -> bool:
        if count == 0:
            return _share(whole[form, observer]) <= AIM
        name = f"without {', '.join(ranked[:count])}, {form} {observer}"
        return _share(trial(name, form, only(ranked[count:]))) <= AIM

    most = int(_MOST_KEPT * len(ranked))
    if not holds(0) and not holds(most):
        best = _share(store.found.trials[f"without {', '.join(ranked[:most])}, {form} {observer}"])
        raise ParityError(
            f"int8 misses its gate although {most} of {len(ranked)} parts are not quantized: {best:.2f} of the limit "
            f"on calibration frames, at most {AIM:g} is wanted",
            "Calibrate on frames like those it will see, or leave int8 out of --precision: fp16 stays.",
        )
    failing, holding = (-1, 0) if holds(0) else (0, most)
    while holding - failing > 1:
        middle = (failing + holding) // 2
        failing, holding = (failing, middle) if holds(middle) else (middle, holding)
    return Found(
        form=form,
        observer=observer,
        excluded=tuple(ranked[:holding]),
        trials={f"{form} {name}": found for (form, name), found in whole.items()},
        sensitivity={part: single[part] for part in ranked},
    )


def planned(groups: Mapping[str, Sequence[str]]) -> int:
    """Trials that the search makes at most, for a progress bar."""
    return 2 * len(OBSERVERS) + len(groups) + 1 + max(1, math.ceil(math.log2(max(2, len(groups) / 2))))


def summarize(frames: Sequence[FrameParity]) -> Trial:
    """Worst of each figure."""
    gate = GATES["int8"]
    mean = _worst([frame.depth.mean for frame in frames])
    p99 = _worst([frame.depth.p99 for frame in frames])
    comparable = all(frame.verdict != "inconclusive" and not frame.network.non_finite for frame in frames)
    if mean is None or p99 is None or not comparable:
        return Trial(mean=mean, p99=p99, share_of_gate=None)
    mask = max(frame.mask_disagreement for frame in frames)
    return Trial(mean=mean, p99=p99, share_of_gate=max(mean / gate.mean, p99 / gate.p99, mask / gate.mask))


def _worst(figures: list[float | None]) -> float | None:
    present = [figure for figure in figures if figure is not None and math.isfinite(figure)]
    return max(present) if len(present) == len(figures) and present else None


def _share(trial: Trial) -> float:
    return math.inf if trial.share_of_gate is None else trial.share_of_gate
