"""Opening a bundle without trusting it."""

import json
import os
import shutil
from pathlib import Path

import pytest

import cdm_export
from cdm_export.bench import load_result
from cdm_export.cli import run_command
from cdm_export.runtimes import engines, local_results
from cdm_export.runtimes.bundle import MANIFEST, Bundle, Verdict
from cdm_export.runtimes.errors import BundleError, InputError
from cdm_export.runtimes.host import fingerprint
from parity_tests.tiny_bundle import make_tiny


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
        (lambda manifest: manifest.update(schema_version=99), "schema version 99, this cdm-export reads 1 and 2"),
        (lambda manifest: manifest.pop("contract"), "contract"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest["contract"]["inputs"][0].update(source="eval"), "source"),
        (lambda manifest: manifest["contract"].update(depth_input=None), "depth_input"),
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


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path):
    return make_tiny(tmp_path / "tiny.bundle", 2)


DEEP = "[" * 100_000
HOSTILE = {
    "deep list": DEEP,
    "deep object": '{"a":' * 100_000,
    "deep inside": '{"schema_version": 1, "name": ' + DEEP + "]" * 100_000 + "}",
    "no UTF-8": b"\xff\xfe{}",
    "a number of 10000 digits": '{"schema_version": ' + "1" * 10_000 + "}",
    "another number": '{"schema_version": NaN}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifest_is_refused(tiny, text, tmp_path, capsys):
    (tiny / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError):
        Bundle.open(tiny)
    with pytest.raises(BundleError):
        cdm_export.open(tiny)
    for command in (
        ("inspect", tiny), ("verify", tiny), ("bench", tiny), ("report", tiny, "-o", tmp_path / "x.html"),
        ("run", tiny, "--input", "synthetic:1", "-o", tmp_path / "x.npy"),
        ("export", "--model", "cdm-vitt", "--camera", "64x64", "--overwrite", "-o", tiny),
    ):  # fmt: skip
        assert run_command([str(part) for part in command]) == 2, command
        assert "error" in capsys.readouterr().err


def test_a_manifest_is_measured_before_it_is_read(tiny):
    with (tiny / MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # a file with a hole: it takes no room on the disk
    with pytest.raises(BundleError, match="it has 1,099,511,627,776 bytes, at most 67,108,864 are read"):
        Bundle.open(tiny)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_manifest_that_never_ends_is_no_manifest(tiny):
    (tiny / MANIFEST).unlink()
    os.mkfifo(tiny / MANIFEST)
    with pytest.raises(BundleError, match="no regular file"):
        Bundle.open(tiny)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("opset",), 10**30),
        (("opset",), -1),
        (("batch",), 10**9),
        (("files", 0, "size"), 10**30),
        (("files", 0, "size"), -1),
        (("verdicts", 0, "mean"), "1e999"),
        (("verdicts", 0, "p99"), "-1e999"),
        (("verdicts", 0, "frames"), 10**30),
    ],
)
def test_numbers_of_a_manifest_are_bounded_and_finite(tiny, where, value):
    verdict = {"backend": "onnxruntime", "verdict": "passed", "reason": "", "frames": 1, "mean": 0.5, "p99": 0.5,
               "max": 0.5, "mean_mm": 0.5, "reference": "r"}  # fmt: skip
    manifest = json.loads((tiny / MANIFEST).read_text())
    manifest["artefacts"][0]["verdicts"] = [verdict]
    (tiny / MANIFEST).write_text(json.dumps(manifest))
    Bundle.open(tiny)
    place = manifest["artefacts"][0]
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = "here" if isinstance(value, str) else value
    text = json.dumps(manifest)
    (tiny / MANIFEST).write_text(text.replace('"here"', value) if isinstance(value, str) else text)
    with pytest.raises(BundleError, match=str(where[-1])):
        Bundle.open(tiny)


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, "", "[]", "5"], ids=["list", "object", "empty", "[]", "5"])
def test_hostile_results_beside_a_bundle_are_no_results(tiny, text):
    """Deep or damaged: nobody's traceback, and nothing believed."""
    opened = Bundle.open(tiny)
    folder = tiny / "engines" / "x" / "fp16"
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(text)
    (folder.parent / "verdict-fp32.json").write_text(text)
    (folder.parent / "speed-fp32.json").write_text(text)
    bench = tiny / "engines" / f"bench-{fingerprint()}"
    bench.mkdir()
    (bench / "bench.json").write_text(text)
    assert local_results.load(opened) == local_results.load_speeds(opened) == {}
    assert engines.scan(opened) == [] and local_results.find_bench(opened) is None
    assert run_command(["inspect", str(tiny)]) == 0
    with pytest.raises(BundleError):
        engines.read_record(folder)
    with pytest.raises(InputError, match=r"no result of this version's bench"):
        load_result(bench / "bench.json")


def test_what_was_computed_may_be_no_number_and_is_then_no_figure():
    """A gate that fails says so; the record of it must not fail on top."""
    verdict = Verdict(
        backend="x", verdict="inconclusive", reason="NaN", frames=1, mean=float("nan"), p99=float("inf"), max=None,
        mean_mm=1.0, reference="r",
    )  # fmt: skip
    assert verdict.mean is None and verdict.p99 is None and verdict.mean_mm == 1.0
