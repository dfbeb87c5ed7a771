"""What version 0.1 wrote is read, verified and run; what is written has the keys it had.

``data/bundle-0.1``: exported by 0.1, a CDM of four blocks of 64 channels, seeded weights. ``data/records-0.1``:
manifest, engine record and verdict that 0.1 wrote for a larger bundle with INT8 and Core ML.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cdm_export.runtimes.bundle import Bundle, Manifest
from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.engine_record import EngineRecord
from cdm_export.runtimes.graph_precision import IslandKind
from cdm_export.runtimes.local_results import LocalVerdict
from parity_tests.conftest import cli
from parity_tests.places import DATA

OLD = DATA / "bundle-0.1"
RECORDS = DATA / "records-0.1"


@pytest.fixture
def bundle(tmp_path):
    """A copy: commands write beside it."""
    return Path(shutil.copytree(OLD, tmp_path / "old.bundle"))


def test_it_opens_and_every_file_is_the_one_that_was_hashed(bundle):
    opened = Bundle.open(bundle, full=True)
    assert opened.manifest.producer == "cdm-export 0.1.0"
    assert [artifact.name for artifact in opened.manifest.artifacts] == ["onnx/fp32", "onnx/fp16", "onnx/fp16-attn32"]
    plan = opened.manifest.artifacts[1].precision_plan
    assert plan is not None and sum(island.kind is IslandKind.LAYER_NORM for island in plan.islands) == 18


def test_it_verifies_and_runs(bundle, tmp_path):
    verified = cli("verify", bundle, "--json")
    document = json.loads(verified.stdout)
    assert verified.returncode == 0 and document["passed"], verified.stderr
    ran = {(one["backend"], one["precision"]) for one in document["parity"]}
    assert {("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("openvino", "fp32")} <= ran
    out = tmp_path / "depth.npy"
    done = cli("run", bundle, "--input", "synthetic:1", "-o", out)
    assert done.returncode == 0, done.stderr
    depth = np.load(out)
    assert depth.shape == (56, 84) and (depth > 0).mean() > 0.9
    assert cli("inspect", bundle).returncode == cli("report", bundle, "-o", tmp_path / "page.html").returncode == 0


def lost(old: object, new: object, where: str = "") -> list[str]:
    """Keys and values of ``old`` that ``new`` lacks or has otherwise; ``new`` may have more."""
    if isinstance(old, dict):
        assert isinstance(new, dict), where
        missing = [f"{where}.{key}" for key in old if key not in new]
        return missing + [one for key in old if key in new for one in lost(old[key], new[key], f"{where}.{key}")]
    if isinstance(old, list):
        assert isinstance(new, list) and len(old) == len(new), where
        return [
            one for index, pair in enumerate(zip(old, new, strict=True)) for one in lost(*pair, f"{where}[{index}]")
        ]
    return [] if old == new else [f"{where}: {old} became {new}"]


TRANSLATED = (".contract.image_resize", ".contract.depth_input")
"""Keys of schema 1 that a contract says per input now (``test_contract.TestSchema1``)."""


@pytest.mark.parametrize(
    ("file", "record"),
    [("manifest.json", Manifest), ("engine.json", EngineRecord), ("verdict.json", LocalVerdict)],
)
def test_keys_on_disk_are_what_they_were(file: str, record: type[Record]) -> None:
    text = (RECORDS / file).read_text()
    again = json.loads(record.model_validate_json(text).model_dump_json())
    changed = [one for one in lost(json.loads(text), again) if not one.endswith(TRANSLATED)]
    outcomes = [one for one in changed if one.endswith(": proven became passed")]
    assert changed == outcomes and len(outcomes) == (3 if record is EngineRecord else 0), changed


def test_names_here_and_names_on_disk_are_both_read() -> None:
    data = json.loads((RECORDS / "verdict.json").read_text())
    by_name = {("artifact" if key == "artefact" else key): value for key, value in data.items()}
    assert LocalVerdict.model_validate(by_name) == LocalVerdict.model_validate(data)
