"""Checkpoints however they are wrapped, and which of several sets of weights is taken (issues 19 and 21)."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cdm_export.cli import run_command
from cdm_export.reference_model.checkpoint import load_network, read_checkpoint
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.errors import CheckpointError, InputError
from parity_tests.small_checkpoints import State, saved, small_state, small_variant


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def scaled(state: State, factor: float = 0.9) -> State:
    return {name: tensor * factor for name, tensor in state.items()}


def assert_taken(path: Path, state: State) -> Any:
    network, checkpoint, report = load_network(path, small_variant())
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert report.loaded == len(state)
    return checkpoint, report


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "prefix",
    [
        *("model.", "net.", "_forward_module.", "_fsdp_wrapped_module.", "refiner.", "student.backbone."),
        *("model._orig_mod.", "_fsdp_wrapped_module._checkpoint_wrapped_module.", "module.model.network."),
    ],
)
def test_any_prefix_that_the_names_share(tmp_path: Path, prefix: str, legacy: bool) -> None:
    tree = {"state_dict": prefixed(small_state(), prefix) | {"loss.scale": torch.ones(1)}, "epoch": 3}
    checkpoint, report = assert_taken(saved(tmp_path / "w.ckpt", tree, legacy=legacy), small_state())
    assert report.unexpected == ("loss.scale",)
    parts = prefix.removesuffix(".").split(".")
    assert checkpoint.wrapper == ", ".join(["state_dict", *(f"prefix '{part}.'" for part in parts)])


def test_submodules_that_were_wrapped_one_by_one(tmp_path: Path) -> None:
    wrapped = {
        name.replace("pretrained.", "pretrained._fsdp_wrapped_module.").replace(".attn.", "._orig_mod.attn."): tensor
        for name, tensor in small_state().items()
    }
    assert_taken(saved(tmp_path / "w.pt", prefixed(wrapped, "_fsdp_wrapped_module.")), small_state())


def test_prefixes_of_safetensors(tmp_path: Path) -> None:
    save_file(prefixed(small_state(), "net."), tmp_path / "w.safetensors")
    assert_taken(tmp_path / "w.safetensors", small_state())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": {"encoder": "vitt", "features": 64}, "state_dict": state},
        lambda state: {"model": {"mean": torch.ones(3)}, "trained": {"best": {"refiner": state}}},
        lambda state: {"config": {"model": "x"}, "module": prefixed(state, "module.")},
        lambda state: {"generator": prefixed(state, "g."), "discriminator": {"weight": torch.ones(3, 3)}},
        lambda state: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "ema": state},
    ],
)
def test_whichever_nested_mapping_fits(tmp_path: Path, wrap: Any) -> None:
    assert not assert_taken(saved(tmp_path / "w.pth", wrap(small_state())), small_state())[1].notes()


def test_a_mapping_that_holds_itself(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"net": small_state()}
    tree["again"] = tree
    assert_taken(saved(tmp_path / "w.pth", tree), small_state())


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_with_attributes_and_numpy_arrays(tmp_path: Path, protocol: int) -> None:
    tensors = {name: tensor.clone() for name, tensor in small_state().items()}
    for tensor in tensors.values():
        tensor.note = "x"  # type: ignore[attr-defined]
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in small_state().items()}
    for parameter in parameters.values():
        parameter.group = 1  # type: ignore[attr-defined]
    arrays = {name: tensor.numpy() for name, tensor in small_state().items()}
    name = next(name for name in arrays if arrays[name].ndim == 2)
    arrays[name] = np.asfortranarray(arrays[name]).astype(">f4")
    for tree in (tensors, parameters, arrays, {"model": arrays}):
        torch.save(tree, tmp_path / "w.pth", pickle_protocol=protocol)
        checkpoint, _ = assert_taken(tmp_path / "w.pth", small_state())
        assert checkpoint.ignored == ()


def test_an_array_of_another_kind_is_named(tmp_path: Path) -> None:
    state: dict[str, Any] = {name: tensor.numpy() for name, tensor in small_state().items()}
    state["pretrained.norm.bias"] = np.array(["a", "b"])
    with pytest.raises(CheckpointError, match=r"NumPy array .* cannot be rebuilt: its type is 'U1'"):
        load_network(saved(tmp_path / "w.pth", state), small_variant())


def run_python(next_step: str, folder: Path) -> None:
    """What the message says to type, typed."""
    code = next_step.partition('python -c "')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


@pytest.mark.parametrize("given", ["model.safetensors.index.json", "model-00002-of-00002.safetensors"])
def test_shards_are_named_and_the_next_step_works(tmp_path: Path, given: str) -> None:
    state = small_state()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names = list(state)
    for shard, part in zip(shards, (names[: len(names) // 2], names[len(names) // 2 :]), strict=True):
        save_file({name: state[name] for name in part}, tmp_path / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shards[0])}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="a checkpoint that was split") as caught:
        load_network(tmp_path / given, small_variant())
    run_python(caught.value.next_step, tmp_path)
    assert_taken(tmp_path / "weights.pt", state)


def test_arrays_of_numpy_are_named_and_the_next_step_works(tmp_path: Path) -> None:
    np.savez(tmp_path / "FILE.npz", **{name: tensor.numpy() for name, tensor in small_state().items()})
    with pytest.raises(CheckpointError, match="NumPy arrays") as caught:
        load_network(tmp_path / "FILE.npz", small_variant())
    run_python(caught.value.next_step, tmp_path)
    assert_taken(tmp_path / "weights.pt", small_state())


# Several sets of weights


@pytest.mark.parametrize(
    ("wrap", "taken", "other"),
    [
        (lambda own, ema: {"model": own, "ema": ema}, "model", "ema"),
        (lambda own, ema: {"ema": ema, "model": own}, "model", "ema"),
        (lambda own, ema: {"state_dict": own, "state_dict_ema": ema}, "state_dict", "state_dict_ema"),
        (lambda own, ema: {"model_ema": ema, "net": prefixed(own, "module.")}, "net.module", "model_ema"),
        (lambda own, ema: {"ema_state_dict": ema, "weights": own}, "weights", "ema_state_dict"),
        (
            lambda own, ema: {"state_dict": prefixed(own, "model.") | prefixed(ema, "ema_model.")},
            "state_dict.model",
            "state_dict.ema_model",
        ),
    ],
)
def test_which_weights_were_taken_is_said_and_the_others_can_be_had(
    tmp_path: Path, wrap: Any, taken: str, other: str
) -> None:
    own, ema = small_state(), scaled(small_state())
    path = saved(tmp_path / "last.pt", wrap(own, ema))
    checkpoint, report = assert_taken(path, own)
    notes = [note for note in report.notes() if f"'{taken}'" in note]
    assert len(notes) == 1 and f"--weights-key {other}" in notes[0]
    chosen, report = assert_taken(path.with_name(f"last.pt#{other}"), ema)
    assert chosen.sha256 == checkpoint.sha256 and chosen.key == other and not report.notes()
    assert_taken(path.with_name(f"last.pt#{taken}"), own)


def test_a_key_that_names_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "last.pt", {"model": small_state(), "ema": scaled(small_state())})
    with pytest.raises(CheckpointError, match="no weights of a known model under 'best'") as caught:
        read_checkpoint(path.with_name("last.pt#best"), small_variant())
    assert caught.value.next_step == "It has them under: model, ema"


def test_a_file_whose_name_has_the_sign(tmp_path: Path) -> None:
    assert_taken(saved(tmp_path / "run.v1#2.pt", small_state()), small_state())


def test_the_manifest_keeps_the_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cdm_export.onnx import worker
    from cdm_export.runtimes.hashing import sha256_of
    from cdm_export.runtimes.opening import reference_path

    monkeypatch.setattr(worker, "report", lambda message: None)
    path = saved(tmp_path / "last.pt", {"model": small_state(), "ema": scaled(small_state())})
    for given, key in ((path, "model"), (path.with_name("last.pt#ema"), "ema")):
        job: Any = SimpleNamespace(weights=WeightsSource(checkpoint=str(given)))
        provenance = worker._load(job, small_variant())[1]
        assert (provenance.checkpoint, provenance.sha256) == (f"last.pt#{key}", sha256_of(path))
        manifest = SimpleNamespace(provenance=provenance)
        bundle: Any = SimpleNamespace(manifest=manifest, path=tmp_path, watch=lambda path: None)
        for said in (path, path.with_name(f"last.pt#{key}")):
            assert reference_path(bundle, said) == path.with_name(f"last.pt#{key}")
        with pytest.raises(InputError, match="the weights under 'other' are not") as caught:
            reference_path(bundle, path.with_name("last.pt#other"))
        assert str(path) in caught.value.next_step


def test_the_option_of_export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "last.pt", {"model": small_state(), "ema": scaled(small_state())})
    rest = ["--model", "cdm-vits", "--camera", "98x70", "-q", "-o", str(tmp_path / "out.bundle"), "--weights-key"]
    assert run_command(["export", str(path), *rest, "best"]) == 2
    assert "under 'best'" in " ".join(capfd.readouterr().err.split())
    assert run_command(["export", *rest, "ema"]) == 2
    assert "--weights-key chooses among" in " ".join(capfd.readouterr().err.split())
