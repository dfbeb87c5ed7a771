"""What ``export`` refuses, in words and with nothing written, and what it does with a bundle that is there."""

import os
import shutil

import pytest

from parity_tests.conftest import cli, refused


def export(*arguments: object):
    return cli(
        "export",
        *arguments,
        "--camera",
        "160x120",
        "--input-size",
        70,
        "--frames",
        "synthetic:1",
        "--precision",
        "fp32",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.pt", "--model", "cdm-vits"), ("nothing.pt: no such file",)),
        (("--random-weights", "1", "--model", "cdm-vitz"), ("unknown model 'cdm-vitz'", "Did you mean 'cdm-vit")),
        (("--random-weights", "1"), ("needs --model",)),
        ((), ("give either a checkpoint or --random-weights",)),
        (("x.pt", "--random-weights", "1", "--model", "cdm-vits"), ("give either",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--precision", "fp7"), ("'fp7' cannot be exported",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--target", "tflite"), ("'tflite' cannot be exported",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--far", "-2"), ("--far must be",)),
        (("--random-weights", "1", "--model", "cdm-vits", "--frames", "nowhere"), ("nowhere",)),
    ],
)
def test_export_refusals(tmp_path, arguments, words):
    given = cli(
        "export",
        "--camera",
        "160x120",
        "--input-size",
        70,
        "--precision",
        "fp32",
        *arguments,
        "-o",
        tmp_path / "x.bundle",
        "-q",
    )
    refused(given, 2, *words)
    assert list(tmp_path.iterdir()) == []


def test_camera_that_is_no_size(tmp_path):
    done = cli("export", "--random-weights", 1, "--model", "cdm-vits", "--camera", "640", "-o", tmp_path / "x", "-q")
    refused(done, 2, "'640' is not an image size", "640x480")


def test_checkpoints_that_cannot_be_used(tmp_path):
    import torch
    from safetensors.torch import load_file

    from cdm_export.reference_model.weights import bundled_checkpoint

    state = load_file(bundled_checkpoint("cdm-vitt"))
    path = tmp_path / "camera.pt"
    out = tmp_path / "x.bundle"

    torch.save({"model": state}, path)
    refused(export(path, "--model", "cdm-vitl", "-o", out, "-q"), 2, "cdm-vitt", "cdm-vitl")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(export(path, "--model", "cdm-vitt", "-o", out, "-q"), 2, "camera.pt")
    missing = dict(list(state.items())[:-1])
    torch.save(missing, path)
    refused(export(path, "-o", out, "-q"), 2, list(state)[-1])
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    torch.save({"state_dict": state, "callback": Payload()}, path)
    refused(export(path, "-o", out, "-q"), 2, "carries code", "system", "Nothing of it was run")
    assert not marker.exists()
    import argparse

    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1.0), "path": tmp_path}, path)
    done = export(path, "-o", out)
    assert done.returncode == 0, done.stderr  # foreign, but no code: left out and listed
    assert "argparse.Namespace" in done.stderr and "pathlib" in done.stderr
    shutil.rmtree(out)
    path.write_bytes(b"<!DOCTYPE html><html>sign in</html>")
    refused(export(path, "-o", out, "-q"), 2, "camera.pt")
    assert not out.exists()


def test_bundle_already_there(small_bundle, tmp_path):
    copy = tmp_path / "there.bundle"
    shutil.copytree(small_bundle, copy)
    arguments = ("--random-weights", 2, "--model", "cdm-vitt", "-o", copy, "-q")
    refused(export(*arguments), 2, "already exists", "--overwrite")
    before = (copy / "manifest.json").read_text()
    done = export(*arguments, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert (copy / "manifest.json").read_text() != before
    (tmp_path / "photos").mkdir()
    refused(export("--random-weights", 2, "--model", "cdm-vits", "-o", tmp_path / "photos", "--overwrite", "-q"), 2,
            "is not a bundle")  # fmt: skip


def test_output_in_a_folder_that_is_not_there(tmp_path):
    done = export("--random-weights", 2, "--model", "cdm-vits", "-o", tmp_path / "no" / "x.bundle", "-q")
    refused(done, 2, "does not exist", "mkdir -p")
