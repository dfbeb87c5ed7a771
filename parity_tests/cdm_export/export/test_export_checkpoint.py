"""From a checkpoint file to depth: what is published, what is not, and what is kept aside."""

import json
from pathlib import Path

import numpy as np
import pytest

from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import Size
from parity_tests.conftest import cli


@pytest.fixture(scope="module")
def trained():
    """The weights that ship, in float32 as a training run would keep them."""
    from safetensors.torch import load_file

    from cdm_export.reference_model.weights import bundled_checkpoint

    return {name: tensor.float() for name, tensor in load_file(bundled_checkpoint("cdm-vitt")).items()}


def export_checkpoint(folder: Path, state: dict, *options: object):
    import torch

    path = folder / "camera.ckpt"
    torch.save({"state_dict": {f"pipeline.{name}": tensor for name, tensor in state.items()}}, path)
    return cli(
        "export", path, "--camera", "160x120", "--input-size", 70, "--frames", "synthetic:1", "--precision", "fp32",
        "-o", folder / "out.bundle", *options,
    )  # fmt: skip


LAST = "depth_head_rgbd.scratch.output_conv2.2"


def test_checkpoint_to_depth(trained, tmp_path, frame):
    """The main job: a wrapped checkpoint, model read off its shapes, to meters equal to PyTorch's."""
    import torch

    import cdm_export
    from cdm_export.reference_model.cdm.network import Cdm
    from cdm_export.runtimes.processing import postprocess, preprocess

    done = export_checkpoint(tmp_path, trained)
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "out.bundle", full=True).manifest
    assert manifest.provenance.checkpoint == "camera.ckpt" and manifest.contract.model == "cdm-vitt"

    picture = frame(Size(160, 120))
    with cdm_export.open(tmp_path / "out.bundle") as refine:
        result = refine(picture)
    network = get_variant("cdm-vitt").build().eval()
    assert isinstance(network, Cdm)
    network.load_state_dict(trained)
    inputs = preprocess(picture, manifest.contract)
    # The reference's own path: B, G, R planes with the R, G, B statistics.
    image = torch.from_numpy(inputs["image"])[:, [2, 1, 0]]
    image = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.inference_mode():
        raw = network(image, torch.from_numpy(inputs["inverse_depth"])).numpy()
    depth, valid = postprocess(raw, manifest.contract)
    assert np.array_equal(result.valid, valid) and valid.mean() > 0.9
    assert np.abs(result.depth_m[valid] / depth[valid] - 1).max() <= 1e-3

    verified = cli("verify", tmp_path / "out.bundle", "--checkpoint", tmp_path / "camera.ckpt", "--json")
    assert verified.returncode == 0 and json.loads(verified.stdout)["reference"] == "eager float32 PyTorch"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state[f"{LAST}.weight"].mul_(1e-3) is state[f"{LAST}.bias"].fill_(-1), "comparable"),
        (lambda state: state[f"{LAST}.weight"].mul_(0.01) is state[f"{LAST}.bias"].mul_(0.01), "--far"),
    ],
    ids=["predicts nothing", "predicts beyond far"],
)
def test_checkpoint_that_predicts_nothing_usable_is_not_published(trained, tmp_path, change, words):
    state = {name: tensor.clone() for name, tensor in trained.items()}
    change(state)
    done = export_checkpoint(tmp_path, state)
    assert done.returncode == 1 and "nothing was published" in done.stderr and words in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["camera.ckpt"]


def test_larger_far_makes_it_usable(trained, tmp_path):
    state = {name: tensor.clone() for name, tensor in trained.items()}
    state[f"{LAST}.weight"].mul_(0.01)
    state[f"{LAST}.bias"].mul_(0.01)
    done = export_checkpoint(tmp_path, state, "--far", 2500)
    assert done.returncode == 0, done.stderr


def test_channel_order_reaches_the_weights(trained, tmp_path, frame):
    import cdm_export

    results = []
    for order in ("bgr", "rgb"):
        folder = tmp_path / order
        folder.mkdir()
        done = export_checkpoint(folder, trained, "--channel-order", order)
        assert done.returncode == 0, done.stderr
        with cdm_export.open(folder / "out.bundle", backend="onnxruntime") as refine:
            results.append(refine(frame(Size(160, 120))).values)
    assert np.abs(results[0] - results[1]).max() > 1e-2


def test_reduced_precision_that_fails_is_kept_aside(tmp_path):
    """These seeded weights miss the FP16 gate at this size; the FP32 graph is as good as ever."""
    out = tmp_path / "out.bundle"
    done = cli(
        "export", "--random-weights", 2, "--model", "cdm-vits", "--camera", "160x120", "--input-size", 70,
        "--frames", "synthetic:1", "-o", out,
    )  # fmt: skip
    assert done.returncode == 1
    assert "torch fp16: failed" in done.stderr and "--bisect --backend torch --precision fp16" in done.stderr
    states = {artifact.name: artifact.state.value for artifact in Bundle.open(out, full=True).manifest.artifacts}
    assert states["onnx/fp32"] == "published" and states["onnx/fp16"] == "failed"

    verified = cli("verify", out, "--json")
    report = json.loads(verified.stdout)
    assert verified.returncode == 0 and report["passed"]
    assert report["skipped"]["onnxruntime fp16"] == "it failed its gate where the bundle was made"
    refused = cli("run", out, "--input", "synthetic:1", "--precision", "fp16", "-o", tmp_path / "x.npy")
    assert refused.returncode == 1 and "failed" in refused.stderr and not (tmp_path / "x.npy").exists()
