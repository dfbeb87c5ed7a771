"""No command writes into a bundle or over what it reads: exit code 2, and every file is what it was."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cdm_export.cli import run_command
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.output_paths import check_output_paths, check_replaced_path
from parity_tests.old_bundle import contents, tiny_bundle  # noqa: F401 fixture

RUN = ("run", "BUNDLE", "--input", "synthetic:1")
BENCH = ("bench", "BUNDLE", "--backend", "onnxruntime", "--precision", "fp32", "--frames", "1")
EXPORT = ("export", "--random-weights", "1", "--model", "cdm-vits", "--camera", "84x56")


@pytest.mark.parametrize(
    "command",
    [
        (*BENCH, "-o", "BUNDLE/manifest.json"),
        (*BENCH, "-o", "BUNDLE/onnx/b.json"),
        (*BENCH, "-o", "BUNDLE/b.md"),
        (*BENCH, "-o", "OTHER/b.json"),
        (*BENCH, "-o", "BUNDLE/new/folder/b.json"),
        (*BENCH, "-o", "LINK/b.json"),
        (*RUN, "-o", "BUNDLE/onnx/depth.npy"),
        (*RUN, "-o", "OTHER/golden"),
        (*RUN, "-o", "OTHER"),
        (*RUN, "-o", "LINK/depth.npy"),
        ("report", "BUNDLE", "-o", "BUNDLE/page.html"),
        ("report", "BUNDLE", "-o", "OTHER/reports/page.html"),
        (*EXPORT, "-o", "OTHER/new.bundle"),
        (*EXPORT, "-o", "LINK/new.bundle"),
        ("demo", "-o", "OTHER/demo"),
    ],
    ids=" ".join,
)
def test_never_into_a_bundle(tiny_bundle, tmp_path, capsys, command):  # noqa: F811
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other.bundle"))
    link = tmp_path / "link"
    link.symlink_to(tiny_bundle / "reports", target_is_directory=True)
    names = {"BUNDLE": str(tiny_bundle), "OTHER": str(other), "LINK": str(link)}
    before = contents(tmp_path)
    full = [next((arg.replace(key, path) for key, path in names.items() if key in arg), arg) for arg in command]
    assert run_command([*full, "-q"]) == 2
    said = capsys.readouterr()
    assert "is inside the bundle" in said.err and "Choose another -o" in said.err and "Traceback" not in said.err
    assert contents(tmp_path) == before and not (other / "demo").exists()


def test_bench_never_over_its_inputs(tiny_bundle, tmp_path, capsys):  # noqa: F811
    old = tmp_path / "old.json"
    old.write_text("{}")
    hard = tmp_path / "hard.json"
    hard.hardlink_to(old)
    for out in (old, hard):
        assert run_command([*(str(tiny_bundle) if arg == "BUNDLE" else arg for arg in BENCH), "--compare", str(old),
                            "-o", str(out), "-q"]) == 2  # fmt: skip
        assert "would write over the input" in capsys.readouterr().err
    assert old.read_text() == "{}"


def test_report_never_over_its_inputs(tiny_bundle, tmp_path, capsys):  # noqa: F811
    result = tmp_path / "result.html"
    result.write_text("{}")
    assert run_command(["report", str(tiny_bundle), "--bench", str(result), "-o", str(result)]) == 2
    assert "would write over the input" in capsys.readouterr().err and result.read_text() == "{}"


def test_export_never_over_its_inputs(tiny_bundle, tmp_path, capsys):  # noqa: F811
    inside = tiny_bundle / "engines" / "weights.pth"
    inside.parent.mkdir()
    inside.touch()
    arguments = ["export", str(inside), "--camera", "84x56", "-o", str(tiny_bundle), "--overwrite", "-q"]
    assert run_command(arguments) == 2
    assert "which would be replaced" in capsys.readouterr().err and inside.exists()
    calibration = [*EXPORT, "--precision", "int8", "--calibration", str(tiny_bundle / "golden"), "--overwrite"]
    assert run_command([*calibration, "-o", str(tiny_bundle), "-q"]) == 2
    assert "which would be replaced" in capsys.readouterr().err


def test_links_count_as_what_they_point_to_and_as_where_they_lie(tiny_bundle, tmp_path):  # noqa: F811
    outside = tmp_path / "outside.json"
    (tiny_bundle / "b.json").symlink_to(outside)
    inward = tmp_path / "in.json"
    inward.symlink_to(tiny_bundle / "manifest.json")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for out in (tiny_bundle / "b.json", inward):
        with pytest.raises(InputError, match="is inside the bundle"):
            check_output_paths((out,))
    with pytest.raises(InputError, match="loop"):
        check_output_paths((loop / "x.json",))
    with pytest.raises(InputError):
        check_output_paths((tmp_path / "a\0b.json",))
    check_output_paths((outside, tmp_path / "new" / "b.json"), (tiny_bundle, None, tmp_path / "not there"))


def test_a_damaged_bundle_that_is_read_is_protected_too(tiny_bundle):  # noqa: F811
    (tiny_bundle / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is inside the bundle"):
        check_output_paths((tiny_bundle / "b.json",), (tiny_bundle,))


def test_other_folders_with_a_manifest_are_no_bundles(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"producer": "webpack"}))
    check_output_paths((tmp_path / "b.json",), (tmp_path / "frames.json",))
    check_replaced_path(tmp_path / "new.bundle", (tmp_path / "manifest.json",))


def test_many_frames_are_looked_at_once(tiny_bundle, tmp_path, monkeypatch):  # noqa: F811
    """Every frame writes three files; none of them asks for all inputs again."""
    asked = []
    stat = os.stat

    def counted(path, *rest, **how):
        asked.append(path)
        return stat(path, *rest, **how)

    inputs = [tmp_path / f"{number}.color.png" for number in range(200)]
    for path in inputs:
        path.touch()
    monkeypatch.setattr(os, "stat", counted)
    check_output_paths([tmp_path / "out" / f"{number}.npy" for number in range(200)], [*inputs, tiny_bundle])
    assert len(asked) < 200 * 20
