"""Write the tables of docs from committed results: ``python -m benchmarks.readme``; ``--check`` compares."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.coreml_packages import coreml_packages
from benchmarks.cost_growth import cost_growth
from benchmarks.families import families
from benchmarks.half_paths import half_paths
from benchmarks.int8 import int8
from benchmarks.peers import peers
from benchmarks.rewrites import rewrites
from benchmarks.rtx_layers import rtx_layers
from cdm_export.parity.gates import GATES, gate_of
from cdm_export.runtimes.contract import ErrorClass

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"


def gates(error_class: ErrorClass = ErrorClass.RELATIVE) -> str:
    """Limits of the parity gates; precisions with the same limits share a row."""
    rows = [
        "| precision | mean | 99th percentile | largest | mask disagreement | NaN, Inf |",
        "|---|---|---|---|---|---|",
    ]
    limits = {name: gate_of(name, error_class) for name in GATES}
    for gate in dict.fromkeys(limits.values()):
        names = ", ".join(name for name, other in limits.items() if other == gate)
        largest = f"{gate.max:g}" if gate.max is not None else "reported"
        rows.append(f"| {names} | {gate.mean:g} | {gate.p99:g} | {largest} | {gate.mask:g} | 0 |")
    return "\n".join(rows)


def options() -> str:
    """Every option of every command, from the command line itself."""
    import typer.main

    from cdm_export.cli import app

    group = typer.main.get_command(app)
    context = typer.Context(group)
    parts = []
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        rows = [
            f"### {name}",
            "",
            (command.help or "").strip(),
            "",
            "| argument or option | what it is | default |",
            "|---|---|---|",
        ]
        for parameter in command.params:
            given = (
                parameter.opts[0].upper()
                if parameter.param_type_name == "argument"
                else ", ".join(f"`{option}`" for option in parameter.opts)
            )
            default = parameter.default
            shown = (
                "" if default in (None, False, "", ()) or callable(default) or parameter.required else f"`{default}`"
            )
            text = " ".join((getattr(parameter, "help", "") or "").split()).replace("|", "\\|")
            rows.append(f"| {given} | {text} | {shown} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def export_memory() -> str:
    """Peak memory and time of whole exports."""
    rows = [
        "| model | weights from | float32 weights | peak | ratio (limit) | time | worst mean error |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("export_memory-*.json")):
        result = json.loads(path.read_text())
        model = path.stem.removeprefix("export_memory-").removesuffix("-checkpoint")
        source = "checkpoint" if path.stem.endswith("-checkpoint") else "seeded random"
        worst = max(verdict["mean"] for verdict in result["parity"])
        environment = result["environment"]
        rows.append(
            f"| {model} | {source} | {result['float32_weights_bytes'] / 1e9:.2f} GB "
            f"| {result['peak_rss_anon_bytes'] / 1e9:.2f} GB | {result['ratio']:.2f} ({result['limit']}) "
            f"| {result['seconds']:.0f} s on {environment['usable_cpus']} cores of {environment['cpu']} | {worst:.1e} |"
        )
    return "\n".join(rows)


def small_model() -> str:
    """Depth of the shipped model beside the raw sensor and hole filling without a network."""
    result = json.loads((RESULTS / "small_model.json").read_text())
    places = ("overall", "holes", "readings", "edges")
    rows = [
        f"| AbsRel on {result['rendered']['frames']} held-out rendered frames | {' | '.join(places)} "
        f"| {len(result['real']['frames'])} real frames, hidden readings |",
        "|---" * (len(places) + 2) + "|",
    ]
    for name, scores in result["rendered"]["scores"].items():
        figures = [f"{scores[place]['abs_rel']:.3f}" for place in places]
        rows.append(f"| {name} | {' | '.join(figures)} | {result['real']['scores'][name]['abs_rel']:.3f} |")
    return "\n".join(rows)


def original_depth_anything() -> str:
    """Largest difference from the original implementations."""
    result = json.loads((RESULTS / "original_depth_anything.json").read_text())
    rows = ["| model | images | largest difference, share of the output's range |", "|---|---|---|"]
    for model, errors in sorted(result["largest_error"].items()):
        rows.append(f"| {model} | {len(errors)} | {max(errors.values()):.1e} |")
    return "\n".join(rows)


_DOCS = README.with_name("docs")
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    _DOCS / "benchmarking.md": {"peers": peers, "export memory": export_memory, "families": families},
    _DOCS / "cli.md": {"options": options},
    _DOCS / "coreml.md": {"coreml packages": coreml_packages},
    _DOCS / "cost_growth.md": {"cost growth": cost_growth},
    _DOCS / "demonstration_model.md": {"small model": small_model},
    _DOCS / "depth_anything.md": {"original depth anything": original_depth_anything},
    _DOCS / "int8.md": {"int8": int8},
    _DOCS / "precision.md": {"half paths": half_paths, "rtx layers": rtx_layers, "rewrites": rewrites},
    _DOCS / "verification.md": {"gates": gates, "pixel gates": lambda: gates(ErrorClass.PIXELS)},
}
"""Generated sections by page."""


def generated(page: Path) -> str:
    """The page's text with every generated section made anew."""
    text = page.read_text()
    for name, make in PAGES[page].items():
        block = f"<!-- generated: {name} -->\n{make()}\n<!-- end -->"
        text, count = re.subn(rf"<!-- generated: {name} -->\n.*?<!-- end -->", lambda _, b=block: b, text, flags=re.S)  # type: ignore[misc]
        assert count == 1, f"{page.name} has {count} sections '{name}'"
    return text


if __name__ == "__main__":
    for page in PAGES:
        new = generated(page)
        if "--check" in sys.argv[1:] and new != page.read_text():
            sys.exit(f"{page.name} differs from the results: python -m benchmarks.readme")
        page.write_text(new)
