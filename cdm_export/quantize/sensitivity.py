"""Which observer, smoothed or not, and which parts had better not be quantized: decided by the error in depth.

Parts are quantized one at a time and ranked by what that does to the depth. The worst are excluded, as few as bring
the whole within its share of the gate: on calibration frames, then on those held out of the ranges, then on those that
the graph will be verified on. Where the later ones fail, the rest is ranked anew, on the frame that is worst.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cdm_export.parity.compare import FrameParity, compare
from cdm_export.parity.gates import gate_of
from cdm_export.quantize.calibration import CalibrationStore
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.quantization import FrameGroup, Judgment, Trial

AIM = 0.7
"""Share of the gate that calibration frames and held-out ones may use: the robot will see others."""
VERIFICATION_AIM = 0.8
"""Share of the gate that verification frames may use in the simulation: kernels round differently, and integer
products built from 16-bit ones saturate (``docs/int8.md``)."""
_MOST_KEPT = 0.5
"""Share of the parts: with more of them excluded there is little INT8 left."""

Forms = Mapping[str, Mapping[str, Mapping[str, float]]]
"""``plain`` and ``smoothed`` -> observer -> layer -> step."""


class Simulate(Protocol):
    """Runs the network with some layers quantized."""

    def __call__(
        self, form: str, steps: Mapping[str, float], group: FrameGroup, frames: Sequence[int]
    ) -> Sequence[NDArray[np.float32]]:
        """Raw outputs of the frames of ``group`` with these indices; the layers of ``steps`` are quantized."""
        ...


@dataclass(frozen=True)
class Judge:
    """Frames that the whole has to hold on."""

    group: FrameGroup
    """What they are."""
    names: tuple[str, ...]
    """Of the frames, in their source."""
    references: Sequence[NDArray[np.float32]]
    """The reference's raw output, one per frame."""
    limit: float = AIM
    """Share of the gate that the worst of them may use."""


@dataclass(frozen=True)
class Found:
    """What the search decided."""

    form: str
    """``plain`` or ``smoothed``."""
    observer: str
    """Name in ``OBSERVERS``."""
    excluded: tuple[str, ...]
    """Parts that are not quantized, in the order in which they were excluded."""
    trials: dict[str, Trial]
    """Everything quantized, by ``FORM OBSERVER``, on calibration frames."""
    sensitivity: dict[str, Trial]
    """One part quantized, by part, on a calibration frame, most sensitive first."""
    reasons: dict[str, str]
    """Why each of ``excluded`` is."""
    judgments: tuple[Judgment, ...]
    """What was decided, on each group of frames."""


def search(
    forms: Forms,
    groups: Mapping[str, Sequence[str]],
    judges: Sequence[Judge],
    contract: ModelContract,
    simulate: Simulate,
    store: CalibrationStore,
    on_trial: Callable[[], None],
    on_stage: Callable[[str, int], None] = lambda name, steps: None,
    refused: Mapping[str, str] | None = None,
) -> Found:
    """Every trial is remembered in ``store`` as soon as it is known, and not made again.

    ``judges``: the calibration frames first; an observer is chosen and ``sensitivity`` measured on these alone.
    ``on_stage``: called with a name and a number of trials when parts have to be ranked anew. ``refused``: parts that
    are out already, with the reason.

    Raises ParityError with the figure of every judge when more than half of the parts would have to be excluded.
    """
    from cdm_export.quantize.observers import OBSERVERS  # PyTorch

    trials = _Trials(contract, simulate, store, on_trial)
    calibration = judges[0]
    whole = {
        (form, observer): trials.on(calibration, f"{form} {observer}", form, forms[form][observer])
        for form in forms
        for observer in OBSERVERS
    }
    form, observer = min(whole, key=lambda pair: _share(whole[pair]))
    one = _Choice(form, observer, forms[form][observer], groups, trials)
    single = one.alone(calibration, 0, groups)
    reasons = dict(refused or {})
    excluded = tuple(reasons)
    ranked, on_frames = [part for part in _ranked(single) if part not in excluded], "on a calibration frame"
    most = at_most(len(groups))
    for number, judge in enumerate(judges):
        sure = judges[: number + 1]
        if one.holds(excluded, sure):
            continue
        costs = single
        if judge is not calibration:
            worst = one.without(excluded, judge).worst or 0
            left = [part for part in groups if part not in excluded]
            on_frames = f"on {judge.group} frame {judge.names[worst]}"
            on_stage(f"which parts {judge.group} frame {judge.names[worst]} needs", len(left) + _halvings(len(left)))
            costs = one.alone(judge, worst, left)
            ranked = _ranked(costs)
        more = one.fewest(excluded, ranked[: max(0, most - len(excluded))], sure)
        if more is None:
            raise _dropped(one, (*excluded, *ranked[: max(0, most - len(excluded))]), judges)
        for part in more:
            reasons[part] = f"alone it costs {_share(costs[part]):.2f} of the gate {on_frames}"
        excluded = (*excluded, *more)
    return Found(
        form=form,
        observer=observer,
        excluded=excluded,
        trials={f"{form} {name}": found for (form, name), found in whole.items()},
        sensitivity={part: single[part] for part in _ranked(single)},
        reasons=reasons,
        judgments=tuple(
            Judgment(group=judge.group, frames=judge.names, limit=judge.limit, found=one.without(excluded, judge))
            for judge in judges
        ),
    )


def at_most(parts: int) -> int:
    """How many of so many parts may be excluded."""
    return int(_MOST_KEPT * parts)


def planned(groups: Mapping[str, Sequence[str]]) -> int:
    """Trials until the whole holds on calibration frames, at most, for a progress bar."""
    from cdm_export.quantize.observers import OBSERVERS  # PyTorch

    return 2 * len(OBSERVERS) + len(groups) + _halvings(len(groups))


def _halvings(parts: int) -> int:
    """Trials that the least number to exclude takes, at most; one tells whether any number does."""
    return 1 + max(1, math.ceil(math.log2(max(2, parts / 2))))


@dataclass(frozen=True)
class _Trials:
    """Simulations that are made once."""

    contract: ModelContract
    simulate: Simulate
    store: CalibrationStore
    on_trial: Callable[[], None]
    seen: set[str] = field(default_factory=set)
    """Names that were asked for."""

    def on(
        self, judge: Judge, name: str, form: str, steps: Mapping[str, float], frames: Sequence[int] | None = None
    ) -> Trial:
        """``frames``: indices; all of them by default."""
        chosen = range(len(judge.references)) if frames is None else frames
        if name not in self.store.found.trials:
            outputs = self.simulate(form, steps, judge.group, chosen)
            compared = [
                compare(judge.names[index], judge.references[index], output, self.contract, "int8")
                for index, output in zip(chosen, outputs, strict=True)
            ]
            self.store.add(trials={**self.store.found.trials, name: summarize(compared)})
        if name not in self.seen:
            self.seen.add(name)
            self.on_trial()
        return self.store.found.trials[name]


@dataclass(frozen=True)
class _Choice:
    """A form and an observer, and the parts to choose among."""

    form: str
    observer: str
    steps: Mapping[str, float]
    groups: Mapping[str, Sequence[str]]
    trials: _Trials

    def _only(self, parts: Sequence[str]) -> dict[str, float]:
        return {path: self.steps[path] for part in parts for path in self.groups[part] if path in self.steps}

    def _name(self, what: str, where: str) -> str:
        return ", ".join(text for text in (what, f"{self.form} {self.observer}", where) if text)

    def alone(self, judge: Judge, frame: int, parts: Sequence[str] | Mapping[str, object]) -> dict[str, Trial]:
        """Each part as the only one that is quantized. One frame is enough to rank them, and there are many."""
        where = "" if judge.group is FrameGroup.CALIBRATION else f"{judge.group} frame {frame}"
        return {
            part: self.trials.on(judge, self._name(f"only {part}", where), self.form, self._only([part]), [frame])
            for part in parts
        }

    def without(self, excluded: Sequence[str], judge: Judge) -> Trial:
        """Everything else quantized, on all frames of a judge."""
        kept = [part for part in self.groups if part not in excluded]
        what = f"without {', '.join(sorted(excluded))}" if excluded else ""
        where = "" if judge.group is FrameGroup.CALIBRATION else f"{judge.group} frames"
        return self.trials.on(judge, self._name(what, where), self.form, self._only(kept))

    def holds(self, excluded: Sequence[str], judges: Sequence[Judge]) -> bool:
        """In the order of the judges, until one fails."""
        return all(_share(self.without(excluded, judge)) <= judge.limit for judge in judges)

    def fewest(self, excluded: Sequence[str], ranked: Sequence[str], judges: Sequence[Judge]) -> tuple[str, ...] | None:
        """As few of ``ranked``, from its beginning, as make the whole hold; None where all of them do not.

        ``excluded`` alone must be known to fail.
        """
        if not ranked or not self.holds((*excluded, *ranked), judges):
            return None
        failing, holding = 0, len(ranked)
        while holding - failing > 1:
            middle = (failing + holding) // 2
            found = self.holds((*excluded, *ranked[:middle]), judges)
            failing, holding = (failing, middle) if found else (middle, holding)
        return tuple(ranked[:holding])


def _dropped(one: _Choice, excluded: Sequence[str], judges: Sequence[Judge]) -> ParityError:
    figures = [
        f"{_share(one.without(excluded, judge)):.2f} of the limit on {len(judge.names)} {judge.group} frame(s), "
        f"at most {judge.limit:.2g} is wanted"
        for judge in judges
    ]
    return ParityError(
        f"int8 misses its gate although {len(excluded)} of {len(one.groups)} parts are not quantized: "
        f"{'; '.join(figures)}",
        "Calibrate on frames like those it will see, or leave int8 out of --precision: fp16 stays.",
    )


def summarize(frames: Sequence[FrameParity]) -> Trial:
    """Worst of each figure."""
    shares = [_frame_share(frame) for frame in frames]
    share = max(shares, default=math.inf)
    return Trial(
        mean=_worst([frame.depth.mean for frame in frames]),
        p99=_worst([frame.depth.p99 for frame in frames]),
        share_of_gate=share if math.isfinite(share) else None,
        worst=shares.index(share) if shares else None,
    )


def _frame_share(frame: FrameParity) -> float:
    """The largest figure of a frame as a share of its limit; infinite where nothing could be compared."""
    gate, mean, p99 = gate_of("int8", frame.error_class), frame.depth.mean, frame.depth.p99
    if mean is None or p99 is None or frame.verdict == "inconclusive" or frame.network.non_finite:
        return math.inf
    shares = (mean / gate.mean, p99 / gate.p99, frame.mask_disagreement / gate.mask)
    return max(shares) if all(map(math.isfinite, shares)) else math.inf


def _worst(figures: list[float | None]) -> float | None:
    present = [figure for figure in figures if figure is not None and math.isfinite(figure)]
    return max(present) if len(present) == len(figures) and present else None


def _ranked(costs: Mapping[str, Trial]) -> list[str]:
    return sorted(costs, key=lambda part: -_share(costs[part]))


def _share(trial: Trial) -> float:
    return math.inf if trial.share_of_gate is None else trial.share_of_gate
