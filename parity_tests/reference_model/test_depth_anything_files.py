"""Files of Depth Anything: what weights cannot tell has to be said, and is held against the file's name."""

import pytest
import torch

from cdm_export.reference_model.checkpoint import detect_variant, load_network, read_checkpoint
from cdm_export.reference_model.depth_anything.network import DepthAnything
from cdm_export.reference_model.random_weights import seeded_network
from cdm_export.reference_model.registry import VARIANTS, get_variant
from cdm_export.runtimes.errors import CheckpointError, InputError
from parity_tests.conftest import cli

V1, V2 = "depth-anything-v1-vits", "depth-anything-v2-vits"
INDOOR, OUTDOOR = "depth-anything-v2-metric-indoor-vits", "depth-anything-v2-metric-outdoor-vits"
KINDS = V1, V2, INDOOR, OUTDOOR


@pytest.mark.parametrize(("size", "count"), [("vits", 239), ("vitb", 239), ("vitl", 407), ("vitg", 631)])
def test_every_kind_has_the_same_tensors(size, count):
    models = [name for name in VARIANTS if name.startswith("depth-anything") and name.endswith(size)]
    assert len(models) == (1 if size == "vitg" else 4)
    with torch.device("meta"):
        shapes = [
            {name: tuple(tensor.shape) for name, tensor in get_variant(model).build().state_dict().items()}
            for model in models
        ]
    assert all(each == shapes[0] for each in shapes) and len(shapes[0]) == count


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """``weights(name)``: the file of a seeded V2 network under a name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(seeded_network(get_variant(V2), 0).state_dict(), folder / "made")

    def named(name):
        path = folder / name
        if not path.exists():
            path.hardlink_to(folder / "made")
        return path

    return named


def test_strict_loading_of_a_published_file(weights):
    network, checkpoint, report = load_network(weights("depth_anything_v2_vits.pth"), get_variant(V2))
    assert report.loaded == 239 and not report.notes() and checkpoint.wrapper == "plain"
    assert isinstance(network, DepthAnything)


def test_which_one_it_is_must_be_said(weights):
    with pytest.raises(CheckpointError, match="weights cannot tell") as caught:
        detect_variant(read_checkpoint(weights("mine.pth")))
    assert all(model in caught.value.message for model in KINDS) and "--model" in caught.value.next_step
    with pytest.raises(CheckpointError) as caught:
        detect_variant(read_checkpoint(weights("depth_anything_v2_vits.pth")))
    assert caught.value.next_step.endswith(f"--model {V2}")


@pytest.mark.parametrize("model", KINDS)
def test_any_of_them_may_be_said_of_an_unknown_file(weights, model):
    assert load_network(weights("mine.pth"), get_variant(model))[2].loaded == 239


@pytest.mark.parametrize(
    ("name", "published", "said"),
    [
        ("depth_anything_vits14.pth", V1, V2),
        ("Depth_Anything_V2_ViTS.pth", V2, V1),
        ("depth_anything_v2_metric_hypersim_vits.pth", INDOOR, V2),
        ("depth_anything_v2_metric_vkitti_vits.pth", OUTDOOR, INDOOR),
    ],
)
def test_a_published_name_that_says_otherwise_is_an_error(weights, name, published, said):
    with pytest.raises(CheckpointError, match=f"named as {published} was published, --model says {said}") as caught:
        load_network(weights(name), get_variant(said))
    assert f"--model {published}" in caught.value.next_step and "rename" in caught.value.next_step
    assert load_network(weights(name), get_variant(published))[2].loaded == 239


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("depth-anything-v2-metric-vits", ("metric-indoor-vits", "up to 20 m", "metric-outdoor-vits", "up to 80 m")),
        ("depth-anything-vits", (V1, V2, INDOOR, OUTDOOR)),
        ("depth-anything-v1-vitg", ("unknown model",)),
        ("depth-anything-v2-vitx", ("unknown model", f"Did you mean '{V2}'")),
    ],
)
def test_a_name_that_leaves_something_out(name, words):
    with pytest.raises(InputError) as caught:
        get_variant(name)
    assert all(word in str(caught.value) for word in words) and caught.value.next_step


def test_another_size_and_another_family(weights, tmp_path):
    with pytest.raises(CheckpointError, match=f"checkpoint is {V1} or {V2} or .*--model says depth-anything-v2-vitb"):
        load_network(weights("mine.pth"), get_variant("depth-anything-v2-vitb"))
    with pytest.raises(CheckpointError, match=f"checkpoint is {V1} or .*--model says cdm-vits"):
        load_network(weights("mine.pth"), get_variant("cdm-vits"))
    torch.save({"core.core.pretrained.cls_token": torch.zeros(1, 1, 384)}, tmp_path / "zoe.pt")
    with pytest.raises(CheckpointError, match="of no known model"):
        load_network(tmp_path / "zoe.pt", get_variant(V1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "depth-anything-v2-metric-vits", "--random-weights", 1), ("leaves open", "up to 20 m", "80 m")),
        (("--model", V2, "--random-weights", 1, "--channel-order", "bgr"), ("--channel-order bgr", "rgb only")),
        (("{weights}",), ("weights cannot tell", INDOOR, "--model")),
        (("{weights}", "--model", V1), (f"named as {V2} was published", f"--model {V2}")),
    ],
)
def test_export_refusals(weights, tmp_path, arguments, words):
    path = weights("depth_anything_v2_vits.pth")
    given = [str(argument).replace("{weights}", str(path)) for argument in arguments]
    done = cli("export", *given, "--camera", "160x120", "--input-size", 70, "--frames", "synthetic:1", "-q", "-o",
               tmp_path / "out.bundle")  # fmt: skip
    text = " ".join(done.stderr.split())
    assert done.returncode == 2 and all(word in text for word in words), text
    assert "Traceback" not in text and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("depth_anything_v2_metric_hypersim_vits_fp32.safetensors", {INDOOR}),
        ("depth_anything_v2_metric_hypersim_vits-fp16.pth", {INDOOR}),
        ("depth-anything-v2-metric-vkitti-vits.ema.pt", {OUTDOOR}),
        ("Depth-Anything-V2-Metric-VKITTI-Small.pth", {OUTDOOR}),
        ("DepthAnythingV2MetricHypersimViTS.pth", {INDOOR}),
        ("depthanything-v2 metric hypersim vits (1).pth", {INDOOR}),
        ("da2_metric_hypersim.pth", {INDOOR}),
        ("metric_vkitti_vits.pth", {OUTDOOR}),
        ("depth_anything_v2_metric_indoor_small.pth", {INDOOR}),
        ("depth_anything_v2_metric_vits.pth", {INDOOR, OUTDOOR}),
        ("depth_anything_v2_vits-fp16.pth", {V2}),
        ("depth_anything_v2_vits_fp32_model.safetensors", {V2}),
        ("dav2-vits-ema.pth", {V2}),
        ("depth_anything_vits14-fp16.pth", {V1}),
        ("Depth-Anything-V1-ViTS14.pth", {V1}),
        ("depth_anything_v2_vits_mydata.pth", {V2, INDOOR, OUTDOOR}),  # whatever it was fine-tuned for
        ("mine_v2.pth", set(KINDS)),  # a version of somebody's own
        ("symmetric.pth", set(KINDS)),
        ("epoch_12.ckpt", set(KINDS)),
    ],
)
def test_words_of_a_published_name_among_others(weights, name, allowed):
    for model in KINDS:
        if model in allowed:
            assert load_network(weights(name), get_variant(model))[2].loaded == 239
        else:
            with pytest.raises(CheckpointError, match="was published, --model says") as caught:
                load_network(weights(name), get_variant(model))
            assert all(f"--model {other}" in caught.value.next_step for other in allowed)
