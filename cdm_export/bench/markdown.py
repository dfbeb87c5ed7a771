"""A result as Markdown: figures never without their conditions."""

from typing import Any

from cdm_export.bench.result import STAGES, BenchResult, Entry, per_frame_note

HEAD = "| backend | p50 | p90 | p99 | max | frames/s | against {baseline} | cold start | memory | parity |"


def to_markdown(result: BenchResult) -> str:
    """Table, stages, what did not run, and the machine."""
    lines = [f"**{result.model}**, camera {result.camera}, network {result.network}, {result.weights}", ""]
    if not result.complete:
        lines += ["**Interrupted: fewer rounds than asked for.**", ""]
    for warning in result.warnings:
        lines += [f"**Warning: {warning}.**", ""]
    lines += [HEAD.format(baseline=result.baseline), "|---|---|---|---|---|---|---|---|---|---|"]
    for entry in result.entries:
        total, (ratio, low, high) = entry.stages["total"], entry.ratio
        memory = entry.peak_rss_mb if entry.rss_anon_mb is None else entry.rss_anon_mb
        lines.append(
            f"| {entry.name} | {_ms(total.p50)} | {_ms(total.p90)} | {_ms(total.p99)} | {_ms(total.max)} "
            f"| {entry.frames_per_second:.3g} | {ratio:.3f} ({low:.3f}..{high:.3f}) "
            f"| {(entry.open_ms + entry.first_ms) / 1e3:.2f} s | {memory:.0f} MB | {parity_words(entry)} |"
        )
    lines += ["", "| backend | preprocess p50 | inference p50 | postprocess p50 | mean of the total (95 %) | calls |"]
    lines += ["|---|---|---|---|---|---|"]
    for entry in result.entries:
        stages = " | ".join(_ms(entry.stages[stage].p50) for stage in STAGES)
        mean, low, high = entry.mean
        calls = entry.stages["total"].calls
        lines.append(f"| {entry.name} | {stages} | {_ms(mean)} ({_ms(low)}..{_ms(high)}) | {calls} |")
    lines.append("")
    if note := per_frame_note(result.entries):
        lines.append(f"* {note}")
    lines += [f"* {line}" for line in device_lines(result)]
    lines += [f"* {line}" for line in what_did_not_run(result)]
    lines += [f"* {line}" for line in environment_lines(result.environment)]
    return "\n".join(lines) + "\n"


def device_lines(result: BenchResult) -> list[str]:
    """Stages by the device's own clock and power, of every entry that has them; that there is no power to be read."""
    lines = [
        f"{entry.name}, by the device's clock, p50: {entry.device_words}"
        for entry in result.entries
        if entry.device_words
    ]
    measured = [f"{entry.name}: {entry.power}" for entry in result.entries if entry.power]
    return lines + (measured or ["power and energy: not measured, no INA3221 sensor here (a Jetson has one)"])


def what_did_not_run(result: BenchResult) -> list[str]:
    """Skipped and dead entries, those with the same reason on one line."""
    lines = []
    for word, entries in (("not run", result.skipped), ("died", result.failed)):
        for why in dict.fromkeys(entries.values()):
            names = ", ".join(name for name, reason in entries.items() if reason == why)
            lines.append(f"{names}: {word} ({why})")
    return lines


def environment_lines(environment: dict[str, Any]) -> list[str]:
    """One line per fact."""
    lines = []
    for key, value in environment.items():
        if isinstance(value, dict):
            text = ", ".join(f"{name} {inner}" for name, inner in value.items())
        elif isinstance(value, list):
            text = ", ".join(str(inner) for inner in value)
        else:
            text = str(value)
        if text:
            lines.append(f"{key.replace('_', ' ')}: {text}")
    return lines


def parity_words(entry: Entry) -> str:
    """The verdict an entry ran under, and where it was made."""
    if entry.verdict is None:
        return "the reference" if entry.backend == "torch" else "not verified"
    return entry.verdict.verdict + (" here" if entry.verified_here else " where it was made")


def _ms(value: float) -> str:
    return f"{value:.4g} ms"
