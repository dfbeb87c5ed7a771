"""Core ML packages: exported, verified by interpreting what was saved, and found out when somebody changed them."""

import hashlib
import importlib
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools")

import cdm_export.bisect.coreml_worker
import cdm_export.bisect.onnx_worker
import cdm_export.bisect.torch_worker
import cdm_export.make_coreml
import cdm_export.make_onnx
import runtimes.coreml
import runtimes.worker
from cdm_export.bisect import bisect_bundle
from cdm_export.coreml_artefacts import CoremlRequest, check_coreml
from cdm_export.coreml_export import coreml_rules, import_coremltools
from cdm_export.coreml_reference.machine import execute
from cdm_export.coreml_reference.package import load_program
from cdm_export.export import ExportRequest, export_bundle
from cdm_export.golden import ReferenceFrame, load_reference
from cdm_export.progress import Silent
from cdm_export.verify import VerifyRequest, verify_bundle
from parity_tests.conftest import cli
from reference_model.registry import VARIANTS
from runtimes.backends import BACKENDS, load_runtime
from runtimes.bundle import Bundle, State
from runtimes.contract import CONTRACT_KEY, ModelContract, Size
from runtimes.coreml_target import TARGETS
from runtimes.errors import BackendUnavailable, BundleError, InputError
from runtimes.selection import choose

OUTPUT = "inverse_depth_refined"
COMPRESSED = ("fp16-w8", "fp16-p4")


def in_process(module, job, what, on_message):
    """The same work without a process of its own: these tests are about what it does, not about where."""
    return importlib.import_module(module)._work(job.model_dump_json()).model_dump(mode="json")


@pytest.fixture(scope="module")
def together(mini_variant):
    """The miniature is a model like any other, and all work happens here."""
    patch = pytest.MonkeyPatch()
    patch.setitem(VARIANTS, mini_variant.name, mini_variant)
    for module in (
        cdm_export.make_onnx, cdm_export.make_coreml, runtimes.worker, cdm_export.bisect.coreml_worker,
        cdm_export.bisect.onnx_worker, cdm_export.bisect.torch_worker,
    ):  # fmt: skip
        patch.setattr(module, "run_isolated", in_process)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def bundle(together, tmp_path_factory):
    """The miniature with every package; 63 patches and a class token make as many tokens as a head has channels."""
    out = tmp_path_factory.mktemp("coreml") / "mini.bundle"
    request = ExportRequest(
        out=out, camera=Size(160, 120), random_weights=8, model="cdm-mini", fit=True, input_size=98,
        coreml=CoremlRequest("macos15", COMPRESSED),
    )  # fmt: skip
    export_bundle(request, Silent())
    return out


def package(bundle, precision="fp32"):
    return bundle / "coreml" / f"{precision}.mlpackage"


def contract(bundle):
    return Bundle.open(bundle).manifest.contract


def fitted_hashes(bundle):
    """What somebody would do who wants a changed bundle to open."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for artefact in manifest["artefacts"]:
        for record in artefact["files"]:
            path = bundle / record["path"]
            record["size"] = path.stat().st_size
            record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


class Editor:
    """A saved package taken apart, and put together again."""

    def __init__(self, bundle, precision="fp32"):
        self.bundle = bundle
        self.folder = package(bundle, precision) / "Data" / "com.apple.CoreML"
        self.spec = import_coremltools().utils.load_spec(str(self.folder / "model.mlmodel"))
        (block,) = self.spec.mlProgram.functions["main"].block_specializations.values()
        self.operations = list(block.operations)
        self.made = {output.name: one for one in self.operations for output in one.outputs}

    def of(self, kind, number=0):
        return [one for one in self.operations if one.type == kind][number]

    def constant(self, operation, parameter):
        return self.made[operation.inputs[parameter].arguments[0].name].attributes["val"]

    def shape(self, value):
        return [side.constant.size for side in self.made[value].outputs[0].type.tensorType.dimensions]

    def save(self):
        (self.folder / "model.mlmodel").write_bytes(self.spec.SerializeToString())
        fitted_hashes(self.bundle)


@pytest.fixture
def edited(bundle, tmp_path):
    """A copy to change."""
    copy = tmp_path / "edited.bundle"
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("engines"))
    return Editor(copy)


# --- what an export makes ---------------------------------------------------------------------------------------------


def test_packages_are_candidates_that_passed_here(bundle):
    manifest = Bundle.open(bundle, full=True).manifest
    packages = {one.precision: one for one in manifest.artefacts if one.format == "coreml"}
    assert {"fp32", "fp16", "fp16-w8"} <= set(packages)
    for one in packages.values():
        assert one.state is State.CANDIDATE
        assert one.opset == 9
        verdict = one.verdict("coreml-reference")
        assert verdict is not None and verdict.verdict == "passed" and verdict.mean > 0
        assert {Path(record.path).name for record in one.files} == {"model.mlmodel", "weight.bin", "Manifest.json"}
    assert packages["fp32"].verdict("coreml-reference").mean < 5e-6


def test_the_table_has_what_was_made_and_what_was_not_published(bundle):
    rows = json.loads((bundle / "reports" / "coreml.json").read_text())["packages"]
    published = {path.stem for path in (bundle / "coreml").iterdir()}
    assert {row["precision"] for row in rows} == {"fp32", "fp16", *COMPRESSED}
    assert {row["precision"] for row in rows if row["published"]} == published
    for row in rows:
        assert row["published"] == (row["verdict"] == "passed")
        assert row["megabytes"] > 0
    size = {row["precision"]: row["megabytes"] for row in rows}
    assert size["fp16-p4"] < size["fp16-w8"] < size["fp16"] < 0.7 * size["fp32"]


def test_what_travels_inside(bundle):
    spec = import_coremltools().utils.load_spec(str(package(bundle, "fp16")))
    metadata = spec.description.metadata
    assert ModelContract.model_validate_json(metadata.userDefined[CONTRACT_KEY]) == contract(bundle)
    assert [one.name for one in spec.description.input] == ["image", "inverse_depth"]
    assert spec.description.output[0].name == OUTPUT
    assert "1/m" in spec.description.output[0].shortDescription
    kinds = {one.type.multiArrayType.dataType for one in (*spec.description.input, *spec.description.output)}
    assert kinds == {65568}  # float32 at the boundary, whatever is inside


def test_islands_are_where_the_plan_says(bundle):
    program = load_program(package(bundle, "fp16"))
    typing = next(one.typing for one in Bundle.open(bundle).manifest.artefacts if one.name == "coreml/fp16")
    for operation in program.operations:
        module = program.module_of(operation.name)
        if operation.kind in ("conv", "linear", "scaled_dot_product_attention", "layer_norm"):
            expected = "fp32" if typing.computes_in_fp32(module) else "fp16"
            assert operation.outputs[0].dtype == expected, operation.name
    assert {one.outputs[0].dtype for one in load_program(package(bundle)).operations} == {"fp32"}


def test_attention_is_one_operation_where_the_target_has_it(bundle):
    kinds = [one.kind for one in load_program(package(bundle)).operations]
    assert kinds.count("scaled_dot_product_attention") == 8 and "softmax" not in kinds
    old, new = coreml_rules(TARGETS["macos14"]), coreml_rules(TARGETS["macos15"])
    assert old["explicit_attention"] is not new["explicit_attention"]


def test_an_older_system_gets_attention_in_parts(together, bundle, tmp_path):
    manifest = Bundle.open(bundle).manifest
    job = cdm_export.make_coreml.CoremlJob(
        contract=manifest.contract, checkpoint=None, random_weights=manifest.provenance.random_weights, licence="",
        typing=None, target="macos13", compressions=(), folder=str(tmp_path),
    )  # fmt: skip
    (made,) = cdm_export.make_coreml.make_coreml(job, Silent())
    assert made.specification == 7
    program = load_program(tmp_path / "fp32.mlpackage")
    kinds = [one.kind for one in program.operations]
    assert kinds.count("softmax") == 8 and "scaled_dot_product_attention" not in kinds
    arrays = load_reference(bundle / manifest.golden[0].file.path)
    inputs = {spec.name: torch.from_numpy(arrays[spec.name]) for spec in manifest.contract.inputs}
    got = execute(program, inputs)[OUTPUT].numpy()
    np.testing.assert_allclose(got, arrays["raw_output"], rtol=1e-4, atol=1e-6)


def test_a_block_in_strict_half(bundle):
    """One encoder block whose every sum is half: another answer, still an answer."""
    program = load_program(package(bundle, "fp16"))
    manifest = Bundle.open(bundle).manifest
    arrays = load_reference(bundle / manifest.golden[0].file.path)
    inputs = {spec.name: torch.from_numpy(arrays[spec.name]) for spec in manifest.contract.inputs}
    wide = execute(program, inputs)[OUTPUT]
    strict = execute(program, inputs, strict=["pretrained.blocks.0"])[OUTPUT]
    apart = float((strict - wide).norm() / wide.norm())
    assert 0 < apart < 0.02


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


def test_nothing_is_found_where_nothing_is_wrong(together, bundle):
    opened = Bundle.open(bundle)
    frame = ReferenceFrame("it", bundle / opened.manifest.golden[0].file.path)
    for precision in ("fp32", "fp16"):
        report = bisect_bundle(opened, ("coreml-reference", precision), ("torch", "fp32"), frame, Silent())
        assert report.passed and report.operation is None, report.summary
        assert len(report.stages) == len({stage.name for stage in report.stages}) > 15
        assert all(name.startswith("depth_head_rgbd.resize_layers.") for name in report.left_out)  # rewritten away


# --- packages that somebody edited ------------------------------------------------------------------------------------


def reference(editor, precision="fp32"):
    opened = Bundle.open(editor.bundle)
    artefact = next(one for one in opened.manifest.artefacts if one.name == f"coreml/{precision}")
    path = opened.artefact_file(artefact)
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


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_auto_never_runs_the_interpreter(together, bundle, tmp_path):
    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle, copy)
    verify_bundle(VerifyRequest(copy, "coreml-reference", precision="fp16"), Silent())
    opened = Bundle.open(copy)
    assert choose(opened).backend.name in ("openvino", "onnxruntime")
    with pytest.raises(BackendUnavailable, match="no backend here has passed the fp16 gate"):
        choose(opened, precision="fp16")
    named = choose(opened, "coreml-reference", "fp16")
    assert named.local and named.verdict.verdict == "passed"


# --- bad input --------------------------------------------------------------------------------------------------------


def test_not_a_mac(bundle):
    if runtimes.coreml.platform.system() == "Darwin":
        pytest.skip("this is one")
    with pytest.raises(BackendUnavailable, match="Core ML runs on a Mac") as raised:
        load_runtime(BACKENDS["coreml"], package(bundle), contract(bundle), "fp32")
    assert "--backend coreml-reference" in raised.value.next_step


def test_coremltools_missing(bundle, monkeypatch):
    missing = {name: replace(BACKENDS[name], library="no_such_library") for name in ("coreml", "coreml-reference")}
    for name, backend in missing.items():
        monkeypatch.setitem(BACKENDS, name, backend)
        with pytest.raises(BackendUnavailable, match="not installed here") as raised:
            load_runtime(backend, package(bundle), contract(bundle), "fp32")
        assert raised.value.next_step == "Add it with: pip install 'cdm-export[coreml]'"
    with pytest.raises(BackendUnavailable, match="--target coreml needs"):
        check_coreml(CoremlRequest("macos15"), ("fp16",))


def test_pytorch_missing(bundle, monkeypatch):
    """A Mac that only runs packages has no PyTorch: the interpreter is not to be had there, and says so."""
    monkeypatch.setattr("cdm_export.coreml_reference.runtime.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="computes with PyTorch"):
        load_runtime(BACKENDS["coreml-reference"], package(bundle), contract(bundle), "fp32")


def test_a_target_too_old():
    with pytest.raises(InputError, match="palettes by group of channels begin with macos15"):
        check_coreml(CoremlRequest("macos13", ("fp16-p4",)), ("fp16",))
    check_coreml(CoremlRequest("macos13", ("fp16-w8",)), ("fp16",))
    with pytest.raises(InputError, match="start from the fp16 package"):
        check_coreml(CoremlRequest("macos15", ("fp16-w8",)), ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "onnx,coreml", "--coreml-target", "macos12"), "'macos12' is no target"),
        (("--coreml-weights", "w8"), "belongs to --target coreml"),
        (("--target", "onnx,coreml", "--coreml-weights", "p3"), "'p3' cannot be exported"),
    ],
)
def test_bad_options(tmp_path, options, message):
    done = cli("export", "--model", "cdm-vitt", "--camera", "160x120", *options, "-o", tmp_path / "x.bundle")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert message in done.stderr
