"""Core ML packages that somebody changed: refused, or found out by their values, down to the operation."""

import itertools

import pytest

pytest.importorskip("coremltools")

from cdm_export.bisect import bisect_bundle
from cdm_export.parity.golden import ReferenceFrame
from cdm_export.parity.request import VerifyRequest
from cdm_export.parity.verify import verify_bundle
from cdm_export.progress import Silent
from cdm_export.runtimes.backends import BACKENDS, load_runtime
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import CONTRACT_KEY
from cdm_export.runtimes.errors import BundleError
from parity_tests.coreml_bundle import fitted_hashes, package

# --- planted defects --------------------------------------------------------------------------------------------------


def plant_weight(editor):
    """Zeros in a piece of one weight blob."""
    operation = editor.of("linear", 5)
    offset = editor.constant(operation, "weight").blobFileValue.offset
    blob = bytearray((editor.folder / "weights" / "weight.bin").read_bytes())
    blob[offset + 64 : offset + 64 + 8000] = bytes(8000)
    (editor.folder / "weights" / "weight.bin").write_bytes(bytes(blob))
    return operation.outputs[0].name


def plant_attribute(editor):
    operation = editor.of("upsample_bilinear", 1)
    editor.constant(operation, "align_corners").immediateValue.tensor.bools.values[0] = False
    return operation.outputs[0].name


def plant_transpose(editor):
    """Another order of axes with the same shape, so that nothing but the values can tell."""
    for operation in (one for one in editor.operations if one.type == "transpose"):
        perm = editor.constant(operation, "perm").immediateValue.tensor.ints.values
        before = editor.shape(operation.inputs["x"].arguments[0].name)
        after = [before[axis] for axis in perm]
        for other in itertools.permutations(perm):
            moved = [axis for axis, (old, new) in enumerate(zip(perm, other, strict=True)) if old != new]
            if moved and [before[axis] for axis in other] == after and all(after[axis] > 1 for axis in moved):
                perm[:] = other
                return operation.outputs[0].name
    raise AssertionError("no transpose can be changed without its shape telling")


@pytest.mark.parametrize("plant", [plant_weight, plant_attribute, plant_transpose])
def test_a_planted_defect_fails_and_is_found(together, edited, plant):
    place = plant(edited)
    edited.save()
    opened = Bundle.open(edited.bundle, full=True)  # the hashes fit
    verification = verify_bundle(VerifyRequest(edited.bundle, "coreml-reference", precision="fp32"), Silent())
    assert not verification.passed
    assert [one.verdict.verdict for one in verification.parities] == ["failed"]
    frame = ReferenceFrame("it", edited.bundle / opened.manifest.golden[0].file.path)
    report = bisect_bundle(opened, ("coreml-reference", "fp32"), ("torch", "fp32"), frame, Silent())
    assert report.verdict == "outside" and report.operation is not None
    assert report.operation.name == place
    assert f"'{place}'" in report.summary
    assert report.operation.module.startswith(report.first)


def test_nothing_is_found_where_nothing_is_wrong(together, coreml_bundle):
    opened = Bundle.open(coreml_bundle)
    frame = ReferenceFrame("it", coreml_bundle / opened.manifest.golden[0].file.path)
    for precision in ("fp32", "fp16"):
        report = bisect_bundle(opened, ("coreml-reference", precision), ("torch", "fp32"), frame, Silent())
        assert report.passed and report.operation is None, report.summary
        assert len(report.stages) == len({stage.name for stage in report.stages}) > 15
        assert all(name.startswith("depth_head_rgbd.resize_layers.") for name in report.left_out)  # rewritten away


# --- packages that somebody edited ------------------------------------------------------------------------------------


def reference(editor, precision="fp32"):
    opened = Bundle.open(editor.bundle)
    artifact = next(one for one in opened.manifest.artifacts if one.name == f"coreml/{precision}")
    path = opened.artifact_file(artifact)
    return load_runtime(BACKENDS["coreml-reference"], path, opened.manifest.contract, precision)


def test_edited_without_care(edited):
    weights = edited.folder / "weights" / "weight.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BundleError, match="changed since it was published"):
        reference(edited)


@pytest.mark.parametrize("where", ["extra.txt", "Data/com.apple.CoreML/weights/second.bin"])
def test_a_file_nobody_hashed(edited, where):
    (package(edited.bundle) / where).write_text("it")
    with pytest.raises(BundleError, match="no part of the bundle"):
        reference(edited)


def test_a_link_in_a_package(edited, tmp_path):
    (package(edited.bundle) / "Data" / "more").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="no part of the bundle"):
        reference(edited)


def test_shapes_that_do_not_fit_name_the_operation(edited):
    operation = edited.of("transpose")
    perm = edited.constant(operation, "perm").immediateValue.tensor.ints.values
    perm[:] = [perm[2], perm[0], perm[1]]
    edited.save()
    with pytest.raises(BundleError, match=r"operation '\w+' \(\w+\) does not hold together"):
        reference(edited)


def test_weights_from_elsewhere(edited):
    edited.constant(edited.of("linear"), "weight").blobFileValue.fileName = "@model_path/../../weights/weight.bin"
    edited.save()
    with pytest.raises(BundleError, match="outside the package"):
        reference(edited)


def test_a_model_from_elsewhere(edited):
    manifest = package(edited.bundle) / "Manifest.json"
    text = manifest.read_text().replace("com.apple.CoreML/model.mlmodel", "../../fp16.mlpackage/Manifest.json")
    manifest.write_text(text)
    fitted_hashes(edited.bundle)
    with pytest.raises(BundleError, match="leads outside the package"):
        reference(edited)


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff", b"{}"])
def test_a_model_that_is_none(edited, content):
    (edited.folder / "model.mlmodel").write_bytes(content)
    fitted_hashes(edited.bundle)
    with pytest.raises(BundleError, match=r"cannot be read|expected an ML Program"):
        reference(edited)


def test_weights_cut_off(edited):
    weights = edited.folder / "weights" / "weight.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    fitted_hashes(edited.bundle)
    with pytest.raises(BundleError, match="does not hold together"):
        reference(edited)


def test_an_operation_nobody_knows(edited):
    edited.of("gelu").type = "softsign"
    edited.of("gelu").inputs.pop("mode", None)
    for operation in edited.operations:
        if operation.type == "softsign":
            operation.inputs.pop("mode", None)
    edited.save()
    with pytest.raises(BundleError, match="'softsign'"):
        reference(edited)


def test_another_contract_inside(edited):
    metadata = edited.spec.description.metadata.userDefined
    metadata[CONTRACT_KEY] = metadata[CONTRACT_KEY].replace('"max_depth":6.0', '"max_depth":7.0')
    edited.save()
    with pytest.raises(BundleError, match="made for another contract"):
        reference(edited)
