"""Values that were accepted in silence, or ended in somebody else's traceback, are refused with exit code 2."""

import pytest

from cdm_export.cli import run_command
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.sources import open_source
from parity_tests.old_bundle import tiny_bundle  # noqa: F401 fixture

RUN = ("run", "BUNDLE", "--input", "synthetic:1", "-o", "OUT")
BENCH = ("bench", "BUNDLE", "--frames", "1")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((*RUN, "--checkpoint", "nope", "--backend", "onnxruntime"), "onnxruntime would not read nope"),
        ((*RUN, "--checkpoint", "nope"), "would not read nope"),
        ((*BENCH, "--checkpoint", "nope", "--backend", "openvino"), "openvino would not read nope"),
        ((*BENCH, "--checkpoint", "nope"), "nope: no such checkpoint"),
        ((*BENCH, "--idle", "inf"), "at most a day"),
        ((*BENCH, "--seconds", "inf"), "at most a day"),
        ((*RUN, "--far", "inf"), "far must be above 0 meters and at most 100000"),
        ((*RUN, "--max-depth", "nan"), "max_depth must be above 0"),
        (("verify", "BUNDLE", "--depth-scale", "nan"), "depth scale must be a positive number"),
        (("verify", "BUNDLE", "--depth-scale", "-1"), "depth scale must be a positive number"),
        (("export", "--random-weights", "1", "--model", "cdm-vits", "--camera", "84x56", "-o", "OUT", "--depth-scale",
          "inf"), "depth scale must be a positive number"),
        (("run", "BUNDLE", "--input", "", "-o", "OUT"), "--input is given nothing"),
        (("run", "BUNDLE", "--input", "synthetic:1", "-o", ""), "-o is given nothing"),
        (("run", "BUNDLE", "--input", "synthetic:1", "--out="), "--out is given nothing"),
        (("inspect", ""), "an argument is empty"),
        (("build", "BUNDLE", "--target", "tensorrt-rtx", "--workspace", "99999999999999999999"), "--workspace"),
    ],
    ids=str,
)  # fmt: skip
def test_refused(tiny_bundle, tmp_path, capsys, command, words):  # noqa: F811
    names = {"BUNDLE": str(tiny_bundle), "OUT": str(tmp_path / "out")}
    assert run_command([*(names.get(argument, argument) for argument in command)]) == 2
    said = capsys.readouterr().err
    assert words in " ".join(said.split()) and "Traceback" not in said, said
    assert not (tmp_path / "out").exists()


def test_no_frames_of_no_name():
    with pytest.raises(InputError, match="empty"):
        open_source("")


@pytest.mark.parametrize("command", [("inspect", "BUNDLE"), ("models",), ("doctor",)])
def test_quiet_is_quiet(tiny_bundle, capsys, command):  # noqa: F811
    arguments = [str(tiny_bundle) if argument == "BUNDLE" else argument for argument in command]
    assert run_command([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
