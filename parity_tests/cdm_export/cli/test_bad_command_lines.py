"""Several hundred command lines that cannot mean anything: each ends with an error of ours, and nothing is written.

Every option of every command, from the command line itself, with every value that is wrong for its kind; a new option
is tried without a line here.
"""

import shutil
from pathlib import Path

import pytest
import typer.main

from cdm_export.cli.commands import COMMANDS
from parity_tests.conftest import cli, write_frame
from parity_tests.places import DATA

OLD = DATA / "bundle-0.1"
NUMBERS = (
    "",
    "x",
    "5x",
    "nan",
    "true",
    "1e999",
    "\u221e",
    "-99999999999999999999",
    "99999999999999999999",
    "0x10",
    "1,5",
    "-7",
)
WORDS = {
    "--camera": (
        "640",
        "640x",
        "x480",
        "0x0",
        "-1x5",
        "99999x99999",
        "320x240x3",
        "a x b",
        "\uff13\uff12\uff10x\uff12\uff14\uff10",
        "1e3x5",
        "1.5x2",
    ),
    "--precision": ("half", "fp17", "FP16", "fp32;fp16", "fp32,,fp16", "int4", "\x1b[31m"),
    "--backend": ("cuda", "tensorRT", "cpu", "onnx runtime", "[bold]"),
    "--target": ("jetson", "onnx,tpu", "TensorRT", "coreml,"),
    "--model": ("cdm", "cdm-vitx", "CDM-VITS", "vits", "../cdm-vits", "cdm-vits@3m"),
    "--channel-order": ("grb", "RGB", "bgra"),
    "--meters": ("0:10", "10:0.5", "0.5", "a:b", "nan:1", "0.5:inf", "-1:5", "sensors"),
    "--colors": ("rainbow", "TURBO"),
    "--frames": ("nope/", "synthetic:0", "synthetic:x", "synthetic:-1", "frames.jsn", "synthetic:99999999"),
    "--input": ("nope.png", "synthetic:0", "synthetic:x"),
    "--depth": ("nope.png",),
    "--calibration": ("nope/", "synthetic:0"),
    "--checkpoint": ("nope.ckpt",),
    "--against": ("torch", ":fp32", "torch:", "nope:fp32", "torch:fp33"),
    "--coreml-target": ("macos12", "ios", "macos99"),
    "--coreml-input": ("video", "array,"),
    "--coreml-weights": ("w4", "p5", "w8;p8"),
    "--data": (
        "",
        ":",
        "folder",
        "folder:",
        "folder:nope",
        "kitti",
        "hidden:nope",
        "hidden:synthetic:0",
        "tartanair:.",
    ),
    "--align": ("", "medium", "MEDIAN", "median,scale"),
    "--compare": ("nope.json",),
    "--beside": ("nope.bundle",),
    "--fallback": ("maybe",),
    "--weights-key": ("nope",),
    "--random-weights": ("x", "nan", "-99999999999999999999999"),
    "--threads": ("", "x", "nan", "-1", "99999999", "1,x", "1,,2"),
}
"""By option, where no rule for its kind says what is wrong."""
SKIPPED = {"--out", "--version", "--help"}
"""Tried in ``test_output_paths.py``."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    from cdm_export.runtimes.contract import Size
    from cdm_export.runtimes.sources import open_source

    folder = tmp_path_factory.mktemp("lines")
    shutil.copytree(OLD, folder / "b.bundle")
    write_frame(folder / "in", "a", open_source("synthetic:1", camera=Size(84, 56)).load(0).frame)
    return folder


def base(command: str, folder: Path) -> list[str]:
    """A command line that would work, but for what is added."""
    bundle, color, depth = folder / "b.bundle", folder / "in" / "a.color.png", folder / "in" / "a.depth.png"
    lines: dict[str, list[object]] = {
        "export": ["--model", "cdm-vitt", "--random-weights", 1, "--camera", "84x56", "--input-size", 28,
                   "--frames", "synthetic:1", "--precision", "fp32", "-o", folder / "new.bundle"],
        "build": [bundle, "--target", "tensorrt-rtx"],
        "run": [bundle, "--input", color, "--depth", depth, "-o", folder / "new"],
        "verify": [bundle],
        "bench": [bundle, "--frames", 5],
        "evaluate": [bundle, "--data", f"hidden:{folder / 'in'}", "--backend", "onnxruntime"],
        "report": [bundle, "-o", folder / "new.html"],
        "inspect": [bundle],
        "demo": ["-o", folder / "new"],
    }  # fmt: skip
    return [str(word) for word in lines.get(command, [])]


def lines() -> list[tuple[str, str, str]]:
    from cdm_export.cli import app

    group = typer.main.get_command(app)
    made = []
    for name in COMMANDS:
        command = group.get_command(typer.Context(group), name)  # type: ignore[attr-defined]
        for parameter in command.params:
            option = parameter.opts[0]
            if not option.startswith("--") or option in SKIPPED or getattr(parameter, "is_flag", False):
                continue
            kind = str(parameter.type_descriptor.annotation).lower()
            values = WORDS.get(option, NUMBERS if "int" in kind or "float" in kind else ("",))
            made += [(name, option, value) for value in values]
        made += [(name, "--no-such-option", "1"), (name, "surplus", "argument"), (name, "-Z", "")]
    return made


LINES = lines()


def test_there_are_hundreds_of_them():
    assert len(LINES) >= 350 and {name for name, *_ in LINES} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_is_refused_and_nothing_is_written(command, folder):
    before = sorted(path for path in folder.rglob("*"))
    wrong = []
    for name, option, value in LINES:
        if name != command:
            continue
        done = cli(name, *base(name, folder), option, value)
        said = done.stderr.strip()
        if done.returncode not in (2, 3) or "Traceback" in said or not said or "\x1b[31m" in said:
            wrong.append(f"{option} {value!r}: exit {done.returncode}: {said[-300:]}")
        written = sorted(set(folder.rglob("*")) - set(before))
        if written:
            wrong.append(f"{option} {value!r}: wrote {written[0].name}")
            for path in written:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert not wrong, "\n".join(wrong)
