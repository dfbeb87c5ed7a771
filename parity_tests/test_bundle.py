"""Opening a bundle without trusting it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cdm_export.runtimes.bundle import MANIFEST, Bundle
from cdm_export.runtimes.errors import BundleError


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy.bundle"
    shutil.copytree(small_bundle, copy)
    return copy


def edit(bundle: Path, change) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_what_was_published_opens_and_is_complete(small_bundle):
    bundle = Bundle.open(small_bundle, full=True)
    listed = {record.path for record in bundle.manifest.files()} | {MANIFEST}
    present = {path.relative_to(small_bundle).as_posix() for path in small_bundle.rglob("*") if path.is_file()}
    assert listed == {path for path in present if not path.startswith("engines/")}
    assert bundle.manifest.provenance.random_weights is not None
    assert {verdict.backend for verdict in bundle.manifest.artifacts[0].verdicts} == {"openvino", "onnxruntime"}


def test_changed_byte_is_refused_when_the_file_is_used(bundle):
    artifact = Bundle.open(bundle).manifest.artifacts[0]
    main = bundle / artifact.main
    status = main.stat()
    with main.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(main, ns=(status.st_atime_ns, status.st_mtime_ns))  # an attacker who sets the time back
    opened = Bundle.open(bundle)  # sizes agree
    with pytest.raises(BundleError, match="was changed since it was published"):
        opened.artifact_file(artifact)
    with pytest.raises(BundleError, match="was changed since it was published"):
        Bundle.open(bundle, full=True)


def test_hash_cache_does_not_outlive_a_change(bundle):
    opened = Bundle.open(bundle)
    artifact = opened.manifest.artifacts[0]
    opened.artifact_file(artifact)  # now cached as good
    main = bundle / artifact.main
    data = bytearray(main.read_bytes())
    data[len(data) // 2] ^= 0xFF
    main.write_bytes(bytes(data))
    with pytest.raises(BundleError, match="was changed"):
        opened.artifact_file(artifact)


def test_truncated_file_is_refused_at_opening(bundle):
    golden = bundle / Bundle.open(bundle).manifest.golden[0].file.path
    golden.write_bytes(golden.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"bytes, the manifest says"):
        Bundle.open(bundle)


def test_missing_file_is_named(bundle):
    (bundle / "reports" / "parity.json").unlink()
    with pytest.raises(BundleError, match=r"'reports/parity\.json' is missing"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "path", ["../outside.onnx", "/etc/passwd", "onnx/../../x", "C:\\x", "onnx\\..\\..\\x", "", "a\0b"]
)
def test_path_that_leaves_the_bundle(bundle, path):
    def escape(manifest):
        manifest["artefacts"][0]["files"][0]["path"] = path

    edit(bundle, escape)
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(bundle)


def test_main_file_that_leaves_the_bundle(bundle):
    edit(bundle, lambda manifest: manifest["artefacts"][0].update(main="../x.onnx"))
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(bundle)


def test_main_file_nobody_vouches_for(bundle):
    edit(bundle, lambda manifest: manifest["artefacts"][0].update(main="onnx/other.onnx"))
    with pytest.raises(BundleError, match="not among its files"):
        Bundle.open(bundle)


def test_file_nobody_vouches_for_beside_the_graph(bundle):
    """A graph could name it as its weights."""
    opened = Bundle.open(bundle)
    (bundle / "onnx" / "unlisted.data").touch()
    with pytest.raises(BundleError, match=r"'onnx/unlisted\.data' is no part of the bundle"):
        opened.artifact_file(opened.manifest.artifacts[0])


def test_contract_edited_in_the_manifest(bundle):
    import cdm_export

    edit(bundle, lambda manifest: manifest["contract"].update(far=1000.0))
    with pytest.raises(BundleError, match="was made for another contract"):
        cdm_export.open(bundle, backend="onnxruntime")


def test_symlink_that_leaves_the_bundle(bundle, tmp_path):
    main = bundle / Bundle.open(bundle).manifest.artifacts[0].main
    outside = tmp_path / "outside.onnx"
    main.rename(outside)
    main.symlink_to(outside)
    with pytest.raises(BundleError, match="leads outside the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(schema_version=99), "schema version 99, this cdm-export reads 1"),
        (lambda manifest: manifest.pop("contract"), "contract"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest["contract"].update(depth_input="eval"), "depth_input"),
        (lambda manifest: manifest["contract"].update(far=-1), "far"),
    ],
)
def test_manifest_that_cannot_be_believed(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "nothing.bundle")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(BundleError, match="schema version None"):
        Bundle.open(tmp_path)


def test_opening_works_without_a_writable_cache(bundle, monkeypatch, tmp_path):
    blocked = tmp_path / "file-not-folder"
    blocked.touch()
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(blocked))
    opened = Bundle.open(bundle)
    assert opened.artifact_file(opened.manifest.artifacts[0]).is_file()
