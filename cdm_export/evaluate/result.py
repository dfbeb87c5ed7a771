"""What an evaluation found: means with intervals over images, and the difference to a baseline image by image."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cdm_export.evaluate.judge import EVERYWHERE
from cdm_export.runtimes.contract import Record

_RESAMPLES = 2000
_SHARE = (2.5, 97.5)
_LEAST_IMAGES = 3
"""Of an interval: resampling fewer says nothing."""


class Estimate(Record):
    """A mean over images, and its 95 % interval: percentile bootstrap over images (Efron 1979), seeded."""

    value: float
    """The mean; shares are 0..1."""
    interval: tuple[float, float] | None
    """None for fewer than 3 images."""


class Entry(Record):
    """What was evaluated: a backend and a precision, or a baseline."""

    name: str
    """Of it."""
    regions: dict[str, dict[str, Estimate]]
    """By region, by metric."""
    differences: dict[str, dict[str, Estimate]]
    """Likewise, of its metric minus that of ``Evaluation.compared_with`` on the same images; empty without one."""
    images: dict[str, dict[str, dict[str, float]]]
    """By image, by region, by metric."""
    failed: dict[str, str]
    """Images without an answer, and why; they are in no mean."""


class Evaluation(Record):
    """Everything against the same truth."""

    evaluated: str
    """Model, or baseline."""
    data: str
    """Data set, in words."""
    protocol: str
    """Name of the protocol."""
    source: str
    """Whose evaluation it is."""
    alignment: str
    """How predictions were brought to the truth's scale."""
    average: str
    """``images`` or ``pixels``: what counts the same."""
    headline: tuple[str, ...]
    """Metrics to look at first."""
    compared_with: str | None
    """Name of the entry that the others are compared with."""
    entries: tuple[Entry, ...]
    """In the order they ran."""
    skipped: dict[str, str]
    """What did not run, and why."""
    notes: tuple[str, ...]
    """What was done to frames on the way."""
    interrupted: bool = False
    """Whether somebody stopped it: the rest did not run."""

    @property
    def complete(self) -> bool:
        """Whether every entry has an answer to every image."""
        return not self.interrupted and not any(entry.failed for entry in self.entries)

    def worst(self, entry: Entry, count: int) -> list[tuple[str, float]]:
        """Images with the largest first headline metric, and that, the worst first."""
        metric = self.headline[0]
        judged = [(name, rows[EVERYWHERE][metric]) for name, rows in entry.images.items() if EVERYWHERE in rows]
        return sorted(judged, key=lambda image: -image[1])[:count]

    def shortened(self, count: int) -> "Evaluation":
        """The same with the worst images of each entry alone, whatever the size of the data set."""
        entries = tuple(
            entry.model_copy(update={"images": {name: entry.images[name] for name, _ in self.worst(entry, count)}})
            for entry in self.entries
        )
        return self.model_copy(update={"entries": entries})


Images = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By image, by region, by metric."""


def estimates(images: Images, average: str) -> dict[str, dict[str, Estimate]]:
    """Means over all images that have the region, and the metric in it."""
    return {
        region: {
            metric: _estimate([row[metric] for row in having], _weights(having, average), metric, average)
            for metric in _metrics(rows)
            if (having := [row for row in rows if metric in row])
        }
        for region, rows in _by_region(images).items()
    }


def differences(images: Images, baseline: Images, average: str) -> dict[str, dict[str, Estimate]]:
    """Means of the difference on the images that both have: what disturbs both cancels.

    A region is left out where the two were not judged at the same number of pixels: they answered different questions.
    """
    common = [name for name in images if name in baseline]
    ours, theirs = (_by_region({name: of[name] for name in common}) for of in (images, baseline))
    found: dict[str, dict[str, Estimate]] = {}
    for region, rows in ours.items():
        others = theirs.get(region, [])
        if [row["pixels"] for row in rows] != [row["pixels"] for row in others]:
            continue
        found[region] = {}
        for metric in _metrics(rows):
            both = [(row, other) for row, other in zip(rows, others, strict=True) if metric in row and metric in other]
            if both:
                values = [row[metric] - other[metric] for row, other in both]
                weights = _weights([row for row, _ in both], average)
                found[region][metric] = _estimate(values, weights, "difference", average)
    return found


def _metrics(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """In order; an image may lack one that asks for what it has not."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name != "pixels"]


def _by_region(images: Images) -> dict[str, list[Mapping[str, float]]]:
    found: dict[str, list[Mapping[str, float]]] = {}
    for regions in images.values():
        for region, row in regions.items():
            found.setdefault(region, []).append(row)
    return found


def _weights(rows: Sequence[Mapping[str, float]], average: str) -> NDArray[np.float64]:
    return np.array([row["pixels"] if average == "pixels" else 1.0 for row in rows])


def _estimate(values: Sequence[float], weights: NDArray[np.float64], metric: str, average: str) -> Estimate:
    """A root of a mean square over all pixels is the root of the mean of the images' squares."""
    squared = metric == "rms" and average == "pixels"
    samples = np.asarray(values, np.float64) ** (2 if squared else 1)

    def mean(chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        means = (samples[chosen] * weights[chosen]).sum(-1) / weights[chosen].sum(-1)
        return np.asarray(np.sqrt(means) if squared else means)

    value = float(mean(np.arange(len(samples))))
    if len(samples) < _LEAST_IMAGES:
        return Estimate(value=value, interval=None)
    resampled = mean(np.random.default_rng(0).integers(len(samples), size=(_RESAMPLES, len(samples))))
    low, high = (float(end) for end in np.percentile(resampled, _SHARE))
    return Estimate(value=value, interval=(low, high))
