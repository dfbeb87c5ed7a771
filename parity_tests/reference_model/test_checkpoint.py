"""Checkpoint files as they are met: every wrapping, weights that do not fit, files that are something else."""

import argparse
import collections
import functools
import hashlib
import json
import pathlib
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cdm_export.reference_model.cdm.config import CdmConfig
from cdm_export.reference_model.cdm.network import Cdm
from cdm_export.reference_model.checkpoint import detect_variant, load_into, load_network, read_checkpoint
from cdm_export.reference_model.config import DptConfig, VitConfig
from cdm_export.reference_model.registry import VARIANTS, fitting_variants, get_variant
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.errors import CheckpointError
from parity_tests.places import DATA

State = dict[str, Tensor]

_CONFIG = CdmConfig(VitConfig(24, 4, 2, (0, 1, 2, 3)), DptConfig(8, (4, 4, 8, 8)))
_KEYS = DATA / "keys"
"""Names and shapes of the original implementations' parameters."""


@pytest.fixture
def variant() -> Variant:
    def fits(shapes: Any) -> bool:
        return shapes.get("depth_pretrained.cls_token") == (1, 1, 24)

    return replace(get_variant("cdm-vits"), build=lambda: Cdm(_CONFIG), fits=fits)


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in Cdm(_CONFIG).state_dict().items()}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(path: Path, tree: object, **options: Any) -> Path:
    torch.save(tree, path, **options)
    return path


def assert_loaded(path: Path, variant: Variant, state: State) -> Any:
    network, checkpoint, report = load_network(path, variant)
    assert not network.training
    loaded = network.state_dict()
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor), name
    assert all(parameter.device.type == "cpu" and not parameter.requires_grad for parameter in network.parameters())
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.loaded == len(state)
    return checkpoint, report


def lightning(state: State) -> dict[str, Any]:
    """What a Lightning trainer saves: weights, hyperparameters of any class, a stepped optimizer, callbacks."""
    network = Cdm(_CONFIG)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": collections.OrderedDict(prefixed(state, "pipeline.")),
        "hyper_parameters": argparse.Namespace(data=pathlib.PurePosixPath("/data/d435"), size=(480, 640), tags={"a"}),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {
            pathlib.PurePosixPath("last.ckpt"): functools.partial(print, "best"),
            "state": torch.device("cpu"),
        },
        "loss": nn.Linear(2, 2),
    }


# Wrappings


@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (lambda state: state, "plain"),
        (lambda state: collections.OrderedDict(state), "plain"),
        (lambda state: {name: nn.Parameter(tensor) for name, tensor in state.items()}, "plain"),
        (lambda state: {"model": prefixed(state, "module.")}, "model, prefix 'module.'"),
        (lambda state: {"model": {"state_dict": state}, "epoch": 1}, "model, state_dict"),
        (lambda state: prefixed(state, "_orig_mod."), "prefix '_orig_mod.'"),
        (lambda state: prefixed(state, "_orig_mod.module."), "prefix '_orig_mod.', prefix 'module.'"),
        (lambda state: {"state_dict": prefixed(state, "pipeline.")}, "state_dict, prefix 'pipeline.'"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrapped_state_dicts(
    tmp_path: Path, variant: Variant, state: State, wrap: Callable[[State], object], wrapper: str, zipped: bool
) -> None:
    path = saved(tmp_path / "weights.pth", wrap(state), _use_new_zipfile_serialization=zipped)
    checkpoint, report = assert_loaded(path, variant, state)
    assert checkpoint.wrapper == wrapper
    assert checkpoint.ignored == ()
    assert (report.absent, report.unexpected, report.converted) == ((), (), {})


def test_state_dict_of_a_module_with_its_metadata(tmp_path: Path, variant: Variant) -> None:
    network = nn.DataParallel(Cdm(_CONFIG))
    assert_loaded(saved(tmp_path / "w.pt", network.state_dict()), variant, network.module.state_dict())


@pytest.mark.parametrize(
    "options",
    [{}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}],
    ids=["zip", "protocol-5", "legacy"],
)
def test_lightning(tmp_path: Path, variant: Variant, state: State, options: dict[str, Any]) -> None:
    path = saved(tmp_path / "cdm_d435.ckpt", lightning(state), **options)
    checkpoint, _ = assert_loaded(path, variant, state)
    assert checkpoint.wrapper == "state_dict, prefix 'pipeline.'"
    expected = {"argparse.Namespace", "pathlib.PurePosixPath", "functools.partial", "torch.nn.modules.linear.Linear"}
    assert expected <= set(checkpoint.ignored)
    assert len(set(checkpoint.ignored)) == len(checkpoint.ignored)


def test_names_beside_the_network_keep_theirs(tmp_path: Path, variant: Variant, state: State) -> None:
    beside = {"loss.scale": torch.ones(1), "depth_head.weight": torch.ones(2), "epoch": 3}
    path = saved(tmp_path / "w.ckpt", {"state_dict": prefixed(state, "pipeline.") | beside})
    _, report = assert_loaded(path, variant, state)
    assert report.unexpected == ("loss.scale", "depth_head.weight")


def test_a_prefix_is_kept_when_two_names_would_become_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {"module.a": torch.ones(1), "module.b": torch.ones(1), "a": torch.zeros(1)})
    assert set(read_checkpoint(path).state_dict) == {"module.a", "module.b", "a"}


def test_safetensors(tmp_path: Path, variant: Variant, state: State) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(prefixed(state, "module."), path)
    checkpoint, _ = assert_loaded(path, variant, state)
    assert checkpoint.wrapper == "prefix 'module.'"
    misnamed = path.rename(tmp_path / "weights.pt")
    assert_loaded(misnamed, variant, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_converted_and_reported(
    tmp_path: Path, variant: Variant, state: State, dtype: torch.dtype
) -> None:
    path = saved(tmp_path / "w.pt", {name: tensor.to(dtype) for name, tensor in state.items()})
    _, report = assert_loaded(path, variant, {name: tensor.to(dtype).float() for name, tensor in state.items()})
    assert report.converted == {str(dtype).removeprefix("torch."): len(state)}


# Weights that do not fit


def test_missing_names_are_an_error(tmp_path: Path, variant: Variant, state: State) -> None:
    lost = [name for name in state if name.startswith("depth_head_rgbd.projects")] + ["pretrained.norm.weight"]
    for name in lost:
        del state[name]
    with pytest.raises(CheckpointError, match=rf"lacks {len(lost)} of \d+ tensors of cdm-vits") as caught:
        load_network(saved(tmp_path / "w.pt", state), variant)
    assert "pretrained.norm.weight" in str(caught.value) and "and 1 more" in str(caught.value)
    assert caught.value.exit_code == 2 and caught.value.next_step


def test_parameters_the_forward_never_reads_may_be_missing(tmp_path: Path, variant: Variant, state: State) -> None:
    unused = [name for name in state if any(part in name for part in variant.unused_parameters)]
    for name in unused:
        del state[name]
    network, _, report = load_network(saved(tmp_path / "w.pt", state), variant)
    assert unused and set(report.absent) == set(unused)
    loaded = network.state_dict()
    assert all(not loaded[name].any() and loaded[name].device.type == "cpu" for name in unused)


def test_shape_mismatch_names_both_shapes(tmp_path: Path, variant: Variant, state: State) -> None:
    state["pretrained.norm.weight"] = torch.ones(7)
    with pytest.raises(CheckpointError, match=r"pretrained.norm.weight expected \[24\], got \[7\]"):
        load_network(saved(tmp_path / "w.pt", state), variant)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights(tmp_path: Path, variant: Variant, state: State, bad: float) -> None:
    state["crossAtts.1.out_proj.bias"][3] = bad
    with pytest.raises(CheckpointError, match=r"crossAtts.1.out_proj.bias .* NaN or infinity"):
        load_network(saved(tmp_path / "w.pt", state), variant)


def test_quantized_weights(tmp_path: Path, variant: Variant, state: State) -> None:
    state["pretrained.norm.weight"] = torch.ones(24, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"pretrained.norm.weight .* is int8, expected float32"):
        load_network(saved(tmp_path / "w.pt", state), variant)


def test_another_variant_is_named_with_the_option_to_type(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {"depth_pretrained.cls_token": torch.zeros(1, 1, 1024)})
    checkpoint = read_checkpoint(path)
    assert detect_variant(checkpoint) == "cdm-vitl"
    with pytest.raises(CheckpointError, match="checkpoint is cdm-vitl, --model says cdm-vits") as caught:
        load_network(path, get_variant("cdm-vits"))
    assert caught.value.next_step == "Use: --model cdm-vitl"


def test_no_known_variant(tmp_path: Path, variant: Variant) -> None:
    path = saved(tmp_path / "w.pt", {"backbone.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match="belong to no model known here"):
        detect_variant(read_checkpoint(path))
    with pytest.raises(CheckpointError, match=r"no known model, expected cdm-vits.*backbone.weight"):
        load_into(variant.build(), read_checkpoint(path), variant)


def test_buffers_outside_the_state_dict_are_computed(tmp_path: Path, variant: Variant) -> None:
    class Buffered(nn.Module):
        grid: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.register_buffer("grid", torch.arange(3.0), persistent=False)

    buffered = replace(variant, build=Buffered, fits=lambda shapes: True)
    network, _, _ = load_network(saved(tmp_path / "w.pt", {"weight": torch.ones(2)}), buffered)
    assert isinstance(network, Buffered) and network.grid.tolist() == [0, 1, 2] and network.weight.tolist() == [1, 1]


# Files that are no checkpoints


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
        (b"\n  <html lang=en>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2640000000\n", "git-lfs pointer"),
        (b"\x08\x0a\x12\x07pytorch", "neither a PyTorch file nor safetensors; it begins with b'"),
        (b"\x80", "truncated or damaged"),
        (b"PK", "truncated or damaged"),
        (pickle.dumps({"weight": [1.0, 2.0]}), "truncated or damaged|not one written by torch.save"),
        (pickle.dumps(1) + pickle.dumps(2) + pickle.dumps(3), "not one written by torch.save"),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "cdm_d435.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and caught.value.next_step


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pt")
    saved(tmp_path / "cdm_l515.ckpt", {})
    with pytest.raises(CheckpointError, match="directory") as caught:
        read_checkpoint(tmp_path)
    assert "cdm_l515.ckpt" in caught.value.next_step


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_at_any_length(tmp_path: Path, state: State, kind: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut.pt"
    if kind == "safetensors":
        save_file(state, whole)
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    lengths = [1, 2, 7, 8, 9, 100, 4000, *(len(content) * i // 10 for i in range(1, 10)), len(content) - 1]
    for length in lengths:
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(cut)
        assert length < 100 or "truncated or damaged" in str(caught.value)


def test_flipped_bytes_end_in_a_checkpoint_error(tmp_path: Path, state: State) -> None:
    content = bytearray(saved(tmp_path / "whole.pt", {"model": dict(list(state.items())[:4])}).read_bytes())
    generator, refused = torch.Generator().manual_seed(1), 0
    for position in torch.randint(len(content), (300,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            read_checkpoint(tmp_path / "damaged.pt")
        except CheckpointError:  # anything else escapes and fails the test
            refused += 1
    # What is left is padding between the records, names and times in their headers: nothing that becomes a weight.
    assert refused >= 280


def test_file_saved_without_checksums_loads(tmp_path: Path, state: State) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "plain.pt", dict(list(state.items())[:4]))
    finally:
        torch.serialization.set_crc32_options(True)
    assert list(read_checkpoint(path).state_dict) == list(state)[:4]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({}, "an empty mapping"),
        ({"epoch": 3, "net": {"weight": torch.ones(2)}}, "mapping with the keys epoch, net"),
        ({"model": nn.Linear(2, 2)}, "not loaded: torch.nn.modules.linear.Linear"),
        (nn.Linear(2, 2), "a Python object; objects that were not loaded: torch.nn"),
        ([torch.ones(2)], "has them: a list"),
        (torch.ones(2), "a single tensor"),
    ],
)
def test_no_tensors_inside(tmp_path: Path, tree: object, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        read_checkpoint(saved(tmp_path / "w.pt", tree))
    assert "torch.save(network.state_dict()" in caught.value.next_step


def test_other_zip_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "docs.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not one written by torch.save; it holds: readme.txt"):
        read_checkpoint(tmp_path / "docs.pt")
    source = saved(tmp_path / "w.pt", {"a": torch.ones(9)})
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as write:
        for name in read.namelist():
            write.writestr(name, read.read(name))
    with pytest.raises(CheckpointError, match="repacked with compression"):
        read_checkpoint(tmp_path / "z.pt")


# Memory, and agreement with the originals

_MEASURE = """
import sys
from pathlib import Path
from cdm_export.reference_model.checkpoint import load_network
from cdm_export.reference_model.registry import get_variant

def anonymous_mib():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

variant = get_variant("cdm-vits")
import torch, safetensors
with torch.device("meta"):
    variant.build()
before = anonymous_mib()
loaded = load_network(Path(sys.argv[1]), variant)
print(anonymous_mib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's process status")
def test_a_file_is_held_once_as_file_backed_pages(tmp_path: Path) -> None:
    network = get_variant("cdm-vits").build()
    torch.save({"state_dict": prefixed(network.state_dict(), "pipeline.")}, tmp_path / "w.ckpt")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    del network
    for name in ("w.ckpt", "w.safetensors"):
        size = (tmp_path / name).stat().st_size / 2**20
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / name)]
        grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert size > 150 and grown < 30, f"{name} of {size:.0f} MiB: anonymous memory grew by {grown:.0f} MiB"


@pytest.mark.parametrize("name", list(VARIANTS))
def test_size_and_detection_of_every_variant(name: str) -> None:
    variant = get_variant(name)
    with torch.device("meta"):
        network = variant.build()
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(variant.million_parameters, abs=1e-3)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    fitting = [each.name for each in fitting_variants(shapes)]
    assert name in fitting and all(each.endswith(name.rpartition("-")[2]) for each in fitting)
    assert len(fitting) == 1 or variant.cannot_tell


_ORIGINALS = {"cdm": "cdm", "depth-anything": "da"}
"""Beginning of the lists' names, by family; the others' lists are compared in the families' own tests."""


@pytest.mark.parametrize(
    "name", [name for name, variant in VARIANTS.items() if name != "cdm-vitt" and variant.family in _ORIGINALS]
)
def test_names_and_shapes_are_the_originals(name: str) -> None:
    with torch.device("meta"):
        network = get_variant(name).build()
    original = _KEYS / f"{_ORIGINALS[get_variant(name).family]}_{name.rpartition('-')[2]}.keys.json"
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == json.loads(original.read_text())
