"""The Core ML package that takes an 8-bit image: its own interface, its own truth, and what the 8 bits cost."""

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools")

from cdm_export.bisect import bisect_bundle
from cdm_export.bisect.request import first_frame
from cdm_export.cli.export import _summary
from cdm_export.coreml.convert import import_coremltools
from cdm_export.coreml.exporter import CoremlRequest, check_coreml
from cdm_export.coreml.interpreter.execute import execute
from cdm_export.coreml.interpreter.program import load_program
from cdm_export.parity.golden import ReferenceFrame, load_reference, raw_frame
from cdm_export.parity.request import VerifyRequest
from cdm_export.parity.verify import verify_bundle
from cdm_export.progress import Silent
from cdm_export.reference_model.torch_runtime import load_exportable
from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS, load_runtime
from cdm_export.runtimes.bundle import MANIFEST, Bundle
from cdm_export.runtimes.contract import CONTRACT_KEY, IMAGE, ModelContract
from cdm_export.runtimes.errors import BundleError, InputError, RuntimeMisuse
from cdm_export.runtimes.opening import open_choice
from cdm_export.runtimes.selection import choose
from parity_tests.conftest import cli
from parity_tests.coreml_bundle import Editor, package

CANDIDATE = ("coreml-reference", IMAGE)


def artifact(bundle):
    return next(one for one in Bundle.open(bundle).manifest.artifacts if one.precision == IMAGE)


def golden(bundle):
    interface = artifact(bundle).interface
    return load_reference(bundle / interface.golden[0].file.path), interface.contract


def opened_reference(bundle, contract):
    opened = Bundle.open(bundle)
    return load_runtime(BACKENDS["coreml-reference"], opened.artifact_file(artifact(bundle)), contract, IMAGE)


# --- what an export makes ---------------------------------------------------------------------------------------------


def test_its_boundary_is_its_own(coreml_bundle):
    manifest = Bundle.open(coreml_bundle, full=True).manifest
    one = artifact(coreml_bundle)
    assert [(spec.name, spec.dtype) for spec in one.interface.contract.inputs] == [
        ("image", "uint8"), ("inverse_depth", "float32"),
    ]  # fmt: skip
    assert one.interface.contract.outputs == manifest.contract.outputs
    assert manifest.interface(one) == one.interface
    others = [other for other in manifest.artifacts if other != one]
    assert {manifest.interface(other).contract for other in (None, *others)} == {manifest.contract}
    listed = {record.path for record in manifest.files()} | {MANIFEST}
    present = {path.relative_to(coreml_bundle).as_posix() for path in coreml_bundle.rglob("*") if path.is_file()}
    assert listed == {path for path in present if not path.startswith("engines/")}


def test_core_ml_sees_an_image_and_an_array(coreml_bundle):
    description = import_coremltools().utils.load_spec(str(package(coreml_bundle, IMAGE))).description
    image, depth = (feature.type for feature in description.input)
    contract = artifact(coreml_bundle).interface.contract
    assert (image.imageType.width, image.imageType.height) == contract.network
    assert image.imageType.ColorSpace.Name(image.imageType.colorSpace) == "RGB"
    assert depth.multiArrayType.dataType == 65568
    assert ModelContract.model_validate_json(description.metadata.userDefined[CONTRACT_KEY]) == contract


def test_its_truth_is_pytorch_on_the_same_image(together, coreml_bundle):
    arrays, contract = golden(coreml_bundle)
    assert arrays["image"].dtype == np.uint8
    network = load_exportable(coreml_bundle, contract)
    with torch.no_grad():
        expected = network(
            torch.from_numpy(arrays["image"]).float() / 255, torch.from_numpy(arrays["inverse_depth"])
        )  # fmt: skip
    np.testing.assert_allclose(arrays["raw_output"], expected.numpy(), rtol=1e-5, atol=1e-7)
    verdict = artifact(coreml_bundle).verdict("coreml-reference")
    assert verdict.verdict == "passed" and 0 < verdict.mean < 1e-3


def test_what_the_8_bits_cost_is_said(coreml_bundle):
    manifest = Bundle.open(coreml_bundle).manifest
    loss = artifact(coreml_bundle).interface.loss
    exact = load_reference(coreml_bundle / manifest.golden[0].file.path)
    got, _ = golden(coreml_bundle)
    both = exact["valid"] & got["valid"]
    apart = np.abs(exact["depth"][both].astype(np.float64) - got["depth"][both])
    assert loss.mean_mm == pytest.approx(1e3 * apart.mean()) and loss.p99_mm == pytest.approx(
        1e3 * np.percentile(apart, 99)
    )
    assert 0 < loss.mean < loss.p99 < 0.05
    assert _summary(Bundle.open(coreml_bundle), [])["input_loss"] == {f"coreml/{IMAGE}": loss.model_dump(mode="json")}
    shown = " ".join(cli("inspect", coreml_bundle).stdout.split())
    assert f"its 8-bit image alone moves the depth: {loss}" in shown and "image uint8" in shown


# --- the interpreter --------------------------------------------------------------------------------------------------


class First(torch.nn.Module):
    """Colors that are told apart."""

    def forward(self, image, plane):
        return image[:, :1] + 10 * image[:, 1:2] + 100 * image[:, 2:] + plane


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_levels_are_scaled_and_colors_laid_out_as_the_package_says(tmp_path, layout):
    """Whoever feeds an image gives red, green, blue; a program of layout BGR reads blue first."""
    ct = import_coremltools()
    image, plane = torch.randint(0, 256, (1, 3, 6, 8), dtype=torch.uint8), torch.rand(1, 1, 6, 8)
    exported = torch.export.export(First(), (image.float(), plane)).run_decompositions({})
    model = ct.convert(
        exported,
        inputs=[
            ct.ImageType(name="image", shape=image.shape, scale=1 / 255, bias=[0.5, 0, 0], color_layout=layout),
            ct.TensorType(name="plane", shape=plane.shape),
        ],
        minimum_deployment_target=ct.target.macOS15, compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(tmp_path / "it.mlpackage"))
    read = image.float() / 255 if layout == "RGB" else image.flip(1).float() / 255
    expected = First()(read + torch.tensor([0.5, 0, 0]).reshape(1, 3, 1, 1), plane)
    (got,) = execute(load_program(tmp_path / "it.mlpackage"), {"image": image, "plane": plane}).values()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-5)


def test_floats_are_no_image(coreml_bundle):
    arrays, contract = golden(coreml_bundle)
    runtime = opened_reference(coreml_bundle, contract)
    with pytest.raises(RuntimeMisuse, match="'image' is float32"):
        runtime({"image": arrays["image"].astype(np.float32), "inverse_depth": arrays["inverse_depth"]})
    with pytest.raises(BundleError, match=r"takes images as \['image'\], the contract as none"):
        opened_reference(coreml_bundle, Bundle.open(coreml_bundle).manifest.contract)


@pytest.fixture
def editor(coreml_bundle, tmp_path):
    copy = tmp_path / "edited.bundle"
    shutil.copytree(coreml_bundle, copy, ignore=shutil.ignore_patterns("engines"))
    return Editor(copy, IMAGE)


def test_swapped_colors_fail_the_gate(together, editor):
    image = editor.spec.description.input[0].type.imageType
    image.colorSpace = image.ColorSpace.Value("BGR")
    editor.save()
    verification = verify_bundle(VerifyRequest(editor.bundle, "coreml-reference", precision=IMAGE), Silent())
    assert [one.verdict.verdict for one in verification.parities] == ["failed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: setattr(image, "width", image.width + 14), r"is an image of 140x98, its program reads"),
        (lambda image: setattr(image, "colorSpace", image.ColorSpace.Value("GRAYSCALE")), "colors GRAYSCALE"),
        (lambda image: image.imageSizeRange.widthRange.SetInParent(), "is an image of 126x98, its program reads"),
    ],
)
def test_an_image_its_program_cannot_read(editor, change, message):
    contract = artifact(editor.bundle).interface.contract
    change(editor.spec.description.input[0].type.imageType)
    editor.save()
    with pytest.raises(BundleError, match=message):
        opened_reference(editor.bundle, contract)


# --- choosing, running, looking inside --------------------------------------------------------------------------------


def test_it_runs_by_name_only(together, coreml_bundle, tmp_path):
    copy = tmp_path / "copy.bundle"
    shutil.copytree(coreml_bundle, copy)
    assert verify_bundle(VerifyRequest(copy, "coreml-reference", precision=IMAGE), Silent()).passed
    opened = Bundle.open(copy)
    local = local_results.load(opened)[CANDIDATE]
    local_results.save(opened, local.model_copy(update={"p50_ms": 1.0}))  # the only one measured here, and the fastest
    assert choose(opened, "coreml-reference").precision == "fp32"
    frame = raw_frame(golden(copy)[0])
    with open_choice(opened, choose(opened, *CANDIDATE)) as pipeline:
        got = pipeline(frame)
    with open_choice(opened, choose(opened, "coreml-reference", "fp16")) as pipeline:
        beside = pipeline(frame)
    np.testing.assert_allclose(got.depth_m, beside.depth_m, rtol=0.05)


def test_frames_of_ones_own_are_compared_on_the_same_image(together, coreml_bundle, tmp_path):
    copy = tmp_path / "copy.bundle"
    shutil.copytree(coreml_bundle, copy)
    request = VerifyRequest(copy, "coreml-reference", "synthetic:1", precision=IMAGE)
    (parity,) = verify_bundle(request, Silent()).parities
    assert parity.verdict.verdict == "passed" and parity.verdict.reference == "eager float32 PyTorch"
    assert parity.frames[0].preprocessing == 0


def test_a_bisect_feeds_both_sides_the_same_image(together, coreml_bundle, tmp_path):
    opened = Bundle.open(coreml_bundle)
    frame = first_frame(opened, CANDIDATE, VerifyRequest(coreml_bundle), tmp_path, Silent())
    assert load_reference(frame.path)["image"].dtype == np.uint8
    report = bisect_bundle(opened, CANDIDATE, ("torch", "fp32"), frame, Silent())
    assert report.passed and len(report.stages) > 15
    floats = ReferenceFrame("it", coreml_bundle / opened.manifest.golden[0].file.path)
    with pytest.raises(InputError, match="takes an 8-bit image") as raised:
        bisect_bundle(opened, ("coreml-reference", "fp16"), CANDIDATE, floats, Silent())
    assert "other way round" in raised.value.next_step


def test_a_planted_defect_is_found_behind_the_image(together, editor):
    operation = editor.of("upsample_bilinear", 1)
    editor.constant(operation, "align_corners").immediateValue.tensor.bools.values[0] = False
    editor.save()
    opened = Bundle.open(editor.bundle)
    frame = ReferenceFrame("it", editor.bundle / artifact(editor.bundle).interface.golden[0].file.path)
    report = bisect_bundle(opened, CANDIDATE, ("torch", "fp32"), frame, Silent())
    assert report.operation is not None and report.operation.name == operation.outputs[0].name


# --- bad input --------------------------------------------------------------------------------------------------------


def test_it_takes_half():
    with pytest.raises(InputError, match="an image input is for fp16"):
        check_coreml(CoremlRequest("macos15", image=True), (), False)


def test_it_takes_core_ml(tmp_path):
    done = cli("export", "--model", "cdm-vitt", "--camera", "160x120", "--coreml-input", "image", "-o", tmp_path / "x")
    assert done.returncode == 2 and "--coreml-input belongs to --target coreml" in done.stderr
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"
