"""Weights that were never written, in files whose header, names and sizes are right (issue 19, line 1)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdm_export.cli import run_command
from cdm_export.reference_model.cdm.network import Cdm
from cdm_export.reference_model.checkpoint import load_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.runtimes.errors import CheckpointError
from parity_tests.small_checkpoints import CONFIG, saved, small_state, small_variant

QKV = "pretrained.blocks.1.attn.qkv.weight"


def stored(folder: Path, state: dict[str, torch.Tensor], kind: str) -> Path:
    if kind == "legacy":
        return saved(folder / "weights.pth", state, legacy=True)
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        load_network(path, small_variant())
    assert caught.value.exit_code == 2 and "Download or copy it again" in caught.value.next_step
    return caught.value


@pytest.mark.parametrize("kept", [0.34, 0.7, 0.97])
def test_a_download_that_stopped_in_a_file_of_full_size(tmp_path: Path, kept: float) -> None:
    path = stored(tmp_path, small_state(), "safetensors")
    content = bytearray(path.read_bytes())
    length = int(len(content) * kept)
    content[length:] = bytes(len(content) - length)
    path.write_bytes(content)
    message = refused(path).message
    assert "all zero" in message or "zero from number" in message or "are 0" in message


def test_a_hole_in_the_older_format(tmp_path: Path) -> None:
    """It has no checksums. Zeros at its end are found by the sizes before each storage, those inside a weight here."""
    path = stored(tmp_path, small_state(), "legacy")
    content = bytearray(path.read_bytes())
    inside = content.index(small_state()[QKV].numpy().tobytes()) + 4 * 1000
    content[inside : inside + 4096] = bytes(4096)
    path.write_bytes(content)
    assert QKV in refused(path).message
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="has 0") as caught:
        load_network(path, small_variant())
    assert str(path) in caught.value.message and "again" in caught.value.next_step


def test_a_zero_tail_over_whole_one_dimensional_tensors(tmp_path: Path) -> None:
    """Cut exactly between tensors: biases may be zero, several at the end of the file beside others that are not."""
    path = stored(tmp_path, small_state(), "safetensors")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    tail = ["pretrained.norm.bias", "depth_pretrained.norm.bias"]
    order = [name for name in header if name not in tail] + tail
    start, body, new = 8 + length, bytearray(), {}
    for name in order:
        begin, end = header[name]["data_offsets"]
        new[name] = header[name] | {"data_offsets": [len(body), len(body) + end - begin]}
        body += bytes(end - begin) if name in tail else content[start + begin : start + end]
    text = json.dumps(new).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    message = refused(path).message
    assert all(f"{name} (all zero)" in message for name in tail)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_product_that_is_one_value_throughout(tmp_path: Path, value: float) -> None:
    state = small_state()
    names = [QKV, "depth_head_rgbd.projects.1.weight", "crossAtts.0.in_proj_weight"]
    for name in names:
        state[name].fill_(value)
    message = refused(saved(tmp_path / "w.pt", state)).message  # saved so: the CRC-32 is right
    assert all(f"{name} (all " in message for name in names) and "3 of " in message


@pytest.mark.parametrize("fill", [b"\0", b"\xcd\xcc\xcc\x3d"])
def test_a_page_of_zeros_or_of_a_pattern_inside_a_large_weight(tmp_path: Path, fill: bytes) -> None:
    """At every offset, aligned to pages of the file or not."""
    source = bundled_checkpoint("cdm-vitt")
    assert source is not None
    variant, state = get_variant("cdm-vitt"), {name: tensor.float() for name, tensor in load_file(source).items()}
    names = [name for name, tensor in state.items() if tensor.numel() > 20_000 and name.endswith("mlp.fc1.weight")]
    for index, name in enumerate(names[:6]):
        damaged = {**state, name: state[name].clone()}
        raw = damaged[name].view(-1).view(torch.uint8).numpy()
        start = 4 * (37 + 911 * index)
        raw[start : start + 4096] = list(fill * (4096 // len(fill)))
        path = tmp_path / "damaged.safetensors"
        save_file(damaged, path)
        with pytest.raises(CheckpointError, match=r"1,0[0-9]+ of .* numbers in a row are") as caught:
            load_network(path, variant)
        assert name in caught.value.message


def test_a_flipped_exponent_bit(tmp_path: Path) -> None:
    state = small_state()
    state["pretrained.norm.bias"][3] = 1e30
    assert "pretrained.norm.bias (up to 1e+30)" in refused(stored(tmp_path, state, "safetensors")).message


def test_zeros_that_training_leaves_are_no_damage(tmp_path: Path) -> None:
    state = small_state()
    for name, tensor in state.items():
        if name.endswith("bias") or "mask_token" in name or "refinenet4.resConfUnit1" in name:
            tensor.zero_()
        if name.endswith("mlp.fc1.weight"):
            tensor[10:40] = 0  # units that weight decay killed: whole rows
            tensor[:, :40] = 0  # and inputs: the same columns everywhere
    state["pretrained.blocks.0.ls1.gamma"].fill_(1e-5)
    state["pretrained.blocks.0.ls2.gamma"].zero_()
    for kind in ("safetensors", "legacy"):
        assert load_network(stored(tmp_path, state, kind), small_variant())[2].loaded == len(state)


def test_freshly_initialized_and_pruned_and_half_precision_weights_load(tmp_path: Path) -> None:
    fresh = Cdm(CONFIG).state_dict()
    pruned = {
        name: torch.where(torch.rand(tensor.shape) < 0.7, 0.0, tensor) if tensor.dim() > 1 else tensor
        for name, tensor in small_state().items()
    }
    half = {name: (tensor * 1e-6).half() for name, tensor in small_state().items()}  # many underflow to zero
    for state in (fresh, pruned, half):
        save_file(state, tmp_path / "w.safetensors")
        assert load_network(tmp_path / "w.safetensors", small_variant())[2].loaded == len(state)


def test_one_zero_bias_at_the_end_of_a_file_is_no_damage(tmp_path: Path) -> None:
    state = small_state()
    last = state.pop("pretrained.norm.bias")
    path = saved(tmp_path / "w.pth", state | {"pretrained.norm.bias": torch.zeros_like(last)}, legacy=True)
    assert load_network(path, small_variant())[2].loaded == len(state) + 1


def test_the_shipped_weights_load() -> None:
    source = bundled_checkpoint("cdm-vitt")
    assert source is not None
    assert load_network(source, get_variant("cdm-vitt"))[2].loaded == 430


def test_export_ends_with_2_and_makes_no_bundle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = bundled_checkpoint("cdm-vitt")
    assert source is not None
    content = bytearray(source.read_bytes())
    length = len(content) // 3
    content[length:] = bytes(len(content) - length)
    (tmp_path / "w.safetensors").write_bytes(content)
    arguments = ["export", str(tmp_path / "w.safetensors"), "--model", "cdm-vitt", "--camera", "98x70", "--input-size"]
    arguments += ["70", "--frames", "synthetic:1", "--precision", "fp32", "-q", "-o", str(tmp_path / "out.bundle")]
    assert run_command(arguments) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "is damaged: 257 of 424 tensors" in said and "Download or copy it again" in said
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
