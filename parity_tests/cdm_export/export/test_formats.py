"""A format is one exporter and one entry: a third one goes through an export that knows nothing of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from cdm_export.export import formats
from cdm_export.export.bundle import export_bundle
from cdm_export.export.request import ExportRequest
from cdm_export.exporter import ExportJob
from cdm_export.onnx.worker import Made
from cdm_export.parity.golden import load_reference
from cdm_export.progress import Silent
from cdm_export.publish import record
from cdm_export.runtimes.bundle import Artifact, Bundle, State
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import BackendUnavailable, InputError


class Text:
    """Keeps the plan of the FP16 graph and the mean depth of every reference as text."""

    name = "text"

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def check_request(self, names):
        self._log.append("check_request")
        assert names == ("onnx", "text")

    def check_host(self):
        self._log.append("check_host")

    def check_sources(self, open_source, progress):
        self._log.append("check_sources")
        assert len(open_source("synthetic:3")) == 3

    def prepare(self, job: ExportJob):
        self._log.append("prepare")
        assert "raw_output" not in load_reference(job.references[0].path), "PyTorch was not asked yet"

    def make(self, job: ExportJob):
        self._log.append("make")
        made = job.result(Made)
        assert made is not None and job.weights.seeded is not None, "later formats make the same weights again"
        folder = job.folder / "text"
        folder.mkdir()
        means = [float(np.mean(load_reference(frame.path)["raw_output"])) for frame in job.references]
        (folder / "means.json").write_text(json.dumps(means))
        fp32 = next(artifact for artifact in job.artifacts if artifact.name == "onnx/fp32")
        file = record(job.folder, folder / "means.json")
        changed = {"name": "text/means", "main": "text/means.json", "files": (file,), "state": State.CANDIDATE}
        job.artifacts.append(fp32.model_copy(update={**changed, "verdicts": ()}))

    def report(self, job: ExportJob, reports: Path):
        self._log.append("report")
        (reports / "text.json").write_text("{}")


def request(out: Path, **changed) -> ExportRequest:
    given = {"random_weights": 0, "model": "cdm-vitt", "input_size": 70, "frames": "synthetic:1", "low_precisions": ()}
    return ExportRequest(out=out, camera=Size(98, 70), **(given | changed))


def test_a_third_format_is_one_entry(tmp_path, monkeypatch):
    log: list[str] = []
    monkeypatch.setitem(formats.FORMATS, "text", lambda request: Text(log))
    bundle, _ = export_bundle(request(tmp_path / "a.bundle"), Silent())
    assert log == ["check_host", "check_request", "check_sources", "prepare", "make", "report"]
    opened = Bundle.open(bundle.path, full=True)
    assert [artifact.name for artifact in opened.manifest.artifacts] == ["onnx/fp32", "text/means"]
    text: Artifact = opened.manifest.artifacts[1]
    assert len(json.loads(opened.artifact_file(text).read_text())) == 1
    assert "reports/text.json" in {report.path for report in opened.manifest.reports}


@pytest.mark.parametrize(
    ("method", "error"),
    [("check_host", BackendUnavailable), ("check_request", InputError), ("check_sources", InputError)],
)
def test_a_format_that_cannot_be_made_here_ends_it_before_any_work(tmp_path, monkeypatch, method, error):
    def refuse(*given):
        raise error("not here")

    exporter = Text([])
    monkeypatch.setattr(exporter, method, refuse)
    monkeypatch.setitem(formats.FORMATS, "text", lambda request: exporter)
    monkeypatch.setattr("cdm_export.export.bundle.prepare_frames", lambda *given: pytest.fail("work had begun"))
    with pytest.raises(error, match="not here"):
        export_bundle(request(tmp_path / "a.bundle"), Silent())
    assert not list(tmp_path.iterdir())


def test_the_export_names_no_format():
    text = Path(export_bundle.__code__.co_filename).read_text()
    body = text[text.index("def export_bundle(") : text.index("def _variant(")]
    assert not [word for word in ("onnx", "coreml", "Coreml", "Int8", "tensorrt") if word in body]
