"""What a race leaves behind for ``report`` and for ``auto``: the result, who is faster than whom, and latencies."""

from cdm_export.bench.result import BenchResult, Entry
from cdm_export.bench.statistics import paired_ratio
from cdm_export.progress import Progress
from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import get_backend
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.local_results import LEAST_ROUNDS, LocalSpeed, Ratio, RunPath


def remember(bundle: Bundle, result: BenchResult, progress: Progress) -> None:
    """Keep the result for ``report``; for ``auto`` every path against every other, round by round, and the latencies of
    what was verified here. Entries with a number of threads of their own are no path of ``auto``'s.
    """
    if local_results.save_bench(bundle, result) is None:
        progress.note("the result could not be stored: neither the bundle nor the cache can be written")
    raced = [(entry, here) for entry in result.entries if not entry.threads and (here := _path(bundle, entry))]
    for batch in sorted({entry.batch for entry, _ in raced}):
        known = local_results.load(bundle, batch)
        entries = [(entry, here) for entry, here in raced if entry.batch == batch]
        for entry, here in entries:
            others = [(path, other) for other, path in entries if other is not entry]
            if others and len(entry.samples_ms) >= LEAST_ROUNDS:
                ratios = tuple(_ratio(entry, path, other) for path, other in others)
                local_results.save_speed(bundle, LocalSpeed(**dict(here), ratios=ratios))
            if (local := known.get((entry.backend, entry.precision))) is not None:
                timed = {"p50_ms": entry.stages["inference"].p50, "disturbed": " ".join(result.warnings)}
                local_results.save(bundle, local.model_copy(update=timed))


def _path(bundle: Bundle, entry: Entry) -> RunPath | None:
    backend = get_backend(entry.backend)
    if backend.format == "checkpoint":
        return None
    return local_results.path_here(bundle, backend, entry.precision, entry.batch)


def _ratio(entry: Entry, baseline: RunPath, other: Entry) -> Ratio:
    ratio, low, high = paired_ratio(entry.samples_ms, other.samples_ms)
    return Ratio(baseline=baseline, ratio=ratio, interval=(low, high), rounds=len(entry.samples_ms))
