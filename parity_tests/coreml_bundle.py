"""A miniature exported with every Core ML package, and a saved one taken apart; ``conftest.py`` has the fixtures."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import pytest

from parity_tests.once import once

OUTPUT = "inverse_depth_refined"
COMPRESSED = ("fp16-w8", "fp16-p4")
_ISOLATED = (
    "cdm_export.onnx.worker", "cdm_export.coreml.worker", "cdm_export.runtimes.worker",
    "cdm_export.bisect.coreml_worker", "cdm_export.bisect.onnx_worker", "cdm_export.bisect.torch_worker",
)  # fmt: skip


def in_process(module, job, what, on_message):
    """The same work without a process of its own: these tests are about what it does, not about where."""
    return importlib.import_module(module)._work(job.model_dump_json()).model_dump(mode="json")


@pytest.fixture(scope="module")
def together(mini_variant):
    """The miniature is a model like any other, and all work happens here."""
    from cdm_export.reference_model.registry import VARIANTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, mini_variant.name, mini_variant)
        for module in _ISOLATED:
            patch.setattr(importlib.import_module(module), "run_isolated", in_process)
        yield


@pytest.fixture(scope="session")
def coreml_bundle(mini_variant, tmp_path_factory):
    """The miniature with every package; 63 patches and a class token make as many tokens as a head has channels."""
    from cdm_export.coreml.exporter import CoremlRequest
    from cdm_export.export.bundle import export_bundle
    from cdm_export.export.request import ExportRequest
    from cdm_export.progress import Silent
    from cdm_export.reference_model.registry import VARIANTS
    from cdm_export.runtimes.contract import Size

    def export(out: Path) -> None:
        request = ExportRequest(
            out=out, camera=Size(160, 120), random_weights=8, model="cdm-mini", fit=True, input_size=98,
            coreml=CoremlRequest("macos15", COMPRESSED, image=True),
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(VARIANTS, mini_variant.name, mini_variant)
            for module in _ISOLATED:
                patch.setattr(importlib.import_module(module), "run_isolated", in_process)
            export_bundle(request, Silent())

    return once(tmp_path_factory, "mini.bundle", export)


def package(bundle: Path, precision: str = "fp32") -> Path:
    return bundle / "coreml" / f"{precision}.mlpackage"


def fitted_hashes(bundle: Path) -> None:
    """What somebody would do who wants a changed bundle to open."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for artifact in manifest["artefacts"]:
        for record in artifact["files"]:
            path = bundle / record["path"]
            record["size"] = path.stat().st_size
            record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


class Editor:
    """A saved package taken apart, and put together again."""

    def __init__(self, bundle: Path, precision: str = "fp32") -> None:
        from cdm_export.coreml.convert import import_coremltools

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
def edited(coreml_bundle, tmp_path):
    """A copy of the bundle to change, its FP32 package taken apart."""
    copy = tmp_path / "edited.bundle"
    shutil.copytree(coreml_bundle, copy, ignore=shutil.ignore_patterns("engines"))
    return Editor(copy)
