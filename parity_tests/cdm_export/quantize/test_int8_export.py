"""INT8 from the command line: made, judged, raced, kept or dropped, run by integer kernels, built by TensorRT-RTX."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import pytest

from cdm_export.bench import speed_gate
from cdm_export.progress import Silent
from cdm_export.quantize.check_qdq import check_rules
from cdm_export.runtimes.bundle import Bundle, State
from cdm_export.runtimes.errors import ParityError
from cdm_export.runtimes.quantization import SpeedComparison
from parity_tests.conftest import cli

EXPORT = ("export", "--model", "cdm-vitt", "--camera", "160x120", "--input-size", 98, "--fit")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped model with both INT8 graphs, the CPUs' one kept whatever its speed; and what was printed."""
    out = tmp_path_factory.mktemp("int8") / "int8.bundle"
    done = cli(
        *EXPORT, "--precision", "fp32,int8", "--calibration", "synthetic:2", "--keep-slower", "-o", out
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Bundle.open(out), done.stdout + done.stderr


def artifact(bundle, precision):
    return next(one for one in bundle.manifest.artifacts if one.precision == precision)


class TestBundle:
    def test_both_graphs_passed_and_only_one_may_be_chosen(self, exported):
        bundle, printed = exported
        cpu_graph, device = artifact(bundle, "int8"), artifact(bundle, "int8-fp16")
        assert {verdict.backend for verdict in cpu_graph.verdicts} == {"openvino", "onnxruntime"}
        assert all(verdict.verdict == "passed" for verdict in (*cpu_graph.verdicts, *device.verdicts))
        speed = cpu_graph.quantization.speed
        assert cpu_graph.state is (State.PUBLISHED if speed.faster else State.DROPPED)
        assert device.state is State.CANDIDATE and device.quantization.speed is None
        assert str(speed) in re.sub(r"\s+", " ", printed)
        assert "from 2 calibration frame(s)" in re.sub(r"\s+", " ", printed), "two frames are few, and that is said"

    def test_one_set_of_integers_and_steps(self, exported):
        bundle, _ = exported
        graphs = [onnx.load(bundle.artifact_file(artifact(bundle, name))) for name in ("int8", "int8-fp16")]
        constants = [
            {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer} for model in graphs
        ]
        steps = artifact(bundle, "int8").quantization.steps
        assert len(steps) > 60
        for path, step in steps.items():
            for name in (f"{path}.integers", f"{path}.steps", f"{path}.step"):
                assert np.array_equal(constants[0][name], constants[1][name].astype(constants[0][name].dtype)), name
            assert constants[0][f"{path}.step"] == np.float32(step)
        assert [model.opset_import[0].version for model in graphs] == [18, 19]

    def test_rules_hold_and_the_kept_parts_are_whole(self, exported):
        bundle, _ = exported
        for name in ("int8", "int8-fp16"):
            one = artifact(bundle, name)
            check_rules(bundle.artifact_file(one), one.quantization.steps)
            kept = one.quantization.excluded
            assert not any(
                path == part or path.startswith(f"{part}.") for path in one.quantization.steps for part in kept
            )

    def test_sizes(self, exported):
        bundle, _ = exported
        megabytes = {one.precision: sum(file.size for file in one.files) / 1e6 for one in bundle.manifest.artifacts}
        kept = artifact(bundle, "int8").quantization.excluded_megabytes
        assert megabytes["int8-fp16"] <= 0.30 * megabytes["fp32"]
        # Of a model this small, what is never quantized is a larger share: 0.29 with cdm-vits.
        assert megabytes["int8"] <= 0.31 * megabytes["fp32"] + kept

    def test_the_table_is_in_the_bundle(self, exported):
        bundle, _ = exported
        table = json.loads((bundle.path / "reports" / "int8.json").read_text())
        assert len(table["quantisation"]["trials"]) == 6
        assert sorted(path.name for path in bundle.path.iterdir()) == ["golden", "manifest.json", "onnx", "reports"]
        shares = [trial["share_of_gate"] for trial in table["quantisation"]["sensitivity"].values()]
        assert shares == sorted(shares, reverse=True) and len(shares) > 30
        assert {row["precision"] for row in table["parity"]} == {"int8", "int8-fp16"}

    def test_inspect_tells(self, exported):
        bundle, _ = exported
        printed = re.sub(r"\s+", " ", cli("inspect", bundle.path).stdout)
        quantization = artifact(bundle, "int8").quantization
        assert f"int8: {len(quantization.steps)} products; ranges from 2 frame(s) of synthetic:2" in printed
        assert str(quantization.speed) in printed


class TestRunning:
    @pytest.mark.parametrize(
        ("backend", "kernels"), [("onnxruntime", r"MatMulIntegerToFloat"), ("openvino", r"^[iu]8 ")]
    )
    def test_products_are_integer_products(self, exported, backend, kernels, tmp_path, monkeypatch):
        """By the library's own account, not by what was asked for."""
        from cdm_export.runtimes.backends import get_backend, load_runtime
        from cdm_export.runtimes.hashing import sha256_of

        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        bundle, _ = exported
        one = artifact(bundle, "int8")
        load_runtime(get_backend(backend), bundle.artifact_file(one), bundle.manifest.contract, "int8", 1).close()
        runtime = load_runtime(get_backend(backend), bundle.artifact_file(one), bundle.manifest.contract, "int8", 1)
        golden = np.load(bundle.file(bundle.manifest.golden[0].file))
        inputs = {spec.name: golden[spec.name] for spec in bundle.manifest.contract.inputs}
        first, second = (runtime(inputs)["inverse_depth_refined"] for _ in range(2))
        assert np.array_equal(first, second)
        products = runtime.describe().executed["products_by_kernel"]
        linear = sum("attn." in path or "mlp." in path for path in one.quantization.steps)
        assert sum(count for name, count in products.items() if re.search(kernels, name)) >= linear, products
        runtime.close()
        assert list(tmp_path.iterdir()) == [], "a profile was left behind"
        assert sha256_of(bundle.path / one.main) == one.files[0].sha256

    def test_bisect_looks_into_the_integers(self, exported, tmp_path):
        bundle, _ = exported
        environment = {"CDM_EXPORT_CACHE": str(tmp_path)}
        done = cli("verify", bundle.path, "--bisect", "--backend", "onnxruntime", "--precision", "int8",
                   "--against", "onnxruntime:fp32", "--json", environment=environment)  # fmt: skip
        report = json.loads(done.stdout)
        assert done.returncode == (0 if report["verdict"] == "inside" else 1), done.stderr
        errors = {one["name"]: one["measure"]["relative"] for one in report["stages"] if one["measure"]}
        assert len(errors) > 30 and 1e-4 < errors["inverse_depth_refined"] < 5e-2
        assert errors["pretrained.patch_embed"] < 1e-5 < errors["pretrained.blocks.0"], "integers begin in the blocks"
        assert all(tmp_path.rglob(file) for file in report["files"])

    def test_verify_and_run(self, exported, tmp_path):
        bundle, _ = exported
        done = cli("verify", bundle.path, "--backend", "openvino", "--precision", "int8", "--json")
        assert done.returncode == 0, done.stderr
        done = cli("run", bundle.path, "--input", "sample", "--fit", "--precision", "int8", "--backend", "openvino",
                   "-o", tmp_path / "depth.npy")  # fmt: skip
        assert done.returncode == 0 and "openvino int8, parity passed" in re.sub(r"\s+", " ", done.stdout + done.stderr)


class TestTensorRtRtx:
    def test_integer_products_and_fused_attention(self, exported, tmp_path):
        pytest.importorskip("tensorrt_rtx_bindings")
        bundle = tmp_path / "copy.bundle"
        shutil.copytree(exported[0].path, bundle)
        done = cli("build", bundle, "--target", "tensorrt-rtx", "--precision", "int8-fp16", "--json")
        assert done.returncode == 0, done.stderr
        record = json.loads(done.stdout)["record"]
        claims = {claim["claim"]: claim for claim in record["evidence"]["claims"]}
        assert all(claim["outcome"] == "passed" for claim in claims.values()), claims
        assert {"every quantized product reads Int8", "every attention is one fused kernel"} <= set(claims)
        assert record["evidence"]["fused_attention"] == 24
        done = cli("run", bundle, "--input", "sample", "--fit", "--backend", "tensorrt-rtx", "--precision", "int8-fp16",
                   "-o", tmp_path / "depth.npy")  # fmt: skip
        assert done.returncode == 3, done.stderr


class TestGuard:
    COMPARED = SpeedComparison(
        int8="openvino int8", other="openvino fp32", int8_ms=30, other_ms=20, ratio=1.5, interval=(1.4, 1.6)
    )

    def test_only_beyond_doubt(self):
        assert not self.COMPARED.faster
        assert not self.COMPARED.model_copy(update={"ratio": 0.97, "interval": (0.9, 1.01)}).faster
        assert self.COMPARED.model_copy(update={"ratio": 0.8, "interval": (0.7, 0.9)}).faster

    @pytest.mark.slow
    def test_a_race_between_real_paths(self, exported):
        bundle, _ = exported
        contract = bundle.manifest.contract
        golden = [bundle.file(item.file) for item in bundle.manifest.golden]
        paths = [
            speed_gate.ExecutionPath(
                backend="onnxruntime", precision=name, file=bundle.artifact_file(artifact(bundle, name))
            )
            for name in ("fp32", "int8-fp16")
        ]
        speed = speed_gate.compare_speed(paths, contract, golden, Silent())
        assert speed.int8 == "onnxruntime int8-fp16" and speed.other == "onnxruntime fp32"
        assert not speed.faster, "FP16 is emulated on CPUs"
        assert speed_gate.compare_speed(paths[:1], contract, golden, Silent()) is None

    @pytest.fixture
    def export_again(self, exported, tmp_path, monkeypatch):
        """The export in this process, with the graphs of ``exported`` instead of a new calibration."""
        from cdm_export.export.bundle import export_bundle
        from cdm_export.export.request import ExportRequest
        from cdm_export.onnx.worker import MadeGraph
        from cdm_export.quantize import artifacts
        from cdm_export.quantize.worker import MadeInt8
        from cdm_export.runtimes.contract import Size

        def made(one, folder):
            source = exported[0].artifact_file(one)
            shutil.copy(source, folder)
            return MadeGraph(
                precision=one.precision, opset=one.opset, files=(source.name,), versions=one.producers,
                precision_plan=one.precision_plan, graph=one.graph,
            )  # fmt: skip

        def make_int8(job, progress):
            ones = [artifact(exported[0], name) for name in ("int8", "int8-fp16")]
            graphs = tuple(made(one, job.folder) for one in ones)
            return MadeInt8(graphs=graphs, rewrites={}, quantization=ones[1].quantization, scales={})

        monkeypatch.setattr(artifacts, "make_int8", make_int8)

        def export(progress):
            request = ExportRequest(
                out=tmp_path / "again.bundle", camera=Size(160, 120), model="cdm-vitt", input_size=98, fit=True,
                low_precisions=(), int8=artifacts.Int8Request("synthetic:2"),
            )  # fmt: skip
            return export_bundle(request, progress)[0]

        return export

    @pytest.mark.slow
    def test_what_is_slower_is_dropped_with_both_figures(self, export_again, monkeypatch):
        monkeypatch.setattr("cdm_export.quantize.exporter.compare_speed", lambda *arguments: self.COMPARED)
        bundle = export_again(Silent())
        assert [one.precision for one in bundle.manifest.artifacts] == ["fp32", "int8-fp16"]
        (dropped,) = bundle.manifest.dropped
        assert dropped.name == "onnx/int8" and not dropped.failed
        assert "30.0 ms" in dropped.reason and "20.0 ms" in dropped.reason
        assert not (bundle.path / "onnx" / "int8.onnx").exists()
        Bundle.open(bundle.path, full=True)
        assert "onnx/int8 dropped" in cli("inspect", bundle.path).stdout

    @pytest.mark.slow
    def test_what_misses_its_gate_is_told_and_the_rest_published(self, export_again, monkeypatch):
        def refuse(job, progress):
            raise ParityError("int8 misses its gate although 20 of 40 parts are not quantized")

        monkeypatch.setattr("cdm_export.quantize.exporter.make_int8", refuse)
        bundle = export_again(progress := Silent())
        assert [one.precision for one in bundle.manifest.artifacts] == ["fp32"]
        assert bundle.manifest.dropped[0].failed and any("int8 is not published" in note for note in progress.notes)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--precision", "fp32,int8"), "--calibration names none"),
            (("--precision", "fp32", "--calibration", "synthetic:2"), "belong to int8"),
            (("--precision", "fp32,int8", "--calibration", "synthetic:0"), "synthetic"),
        ],
    )
    def test_options(self, options, told, tmp_path):
        done = cli(*EXPORT, *options, "-o", tmp_path / "no.bundle")
        assert done.returncode == 2 and told in done.stderr and list(tmp_path.iterdir()) == []

    def test_frames_of_another_size_and_frames_without_a_reading(self, tmp_path, frame):
        from cdm_export.runtimes.contract import Size
        from cdm_export.runtimes.frame import Frame
        from parity_tests.conftest import write_frame

        seen = frame(Size(200, 150))
        write_frame(tmp_path / "other", "a", seen)
        blind = frame(Size(160, 120))
        write_frame(tmp_path / "blind", "a", Frame(rgb=blind.rgb, depth=np.zeros_like(blind.depth)))
        for folder, told in (("other", "200x150"), ("blind", "a")):
            done = cli(
                "export", "--model", "cdm-vitt", "--camera", "160x120", "--input-size", 98, "--frames", "synthetic:1",
                "--precision", "fp32,int8", "--calibration", tmp_path / folder, "-o", tmp_path / "no.bundle",
            )  # fmt: skip
            assert done.returncode == 2 and told in done.stderr, done.stderr
            assert not (tmp_path / "no.bundle").exists()

    def test_interrupted_search_goes_on(self, tmp_path):
        """Ctrl-C in the search: exit code 130, nothing left behind, and the next export knows the trials."""
        command = [
            sys.executable, "-m", "cdm_export", *map(str, EXPORT), "--precision", "fp32,int8", "--calibration",
            "synthetic:3:7", "-o", str(tmp_path / "out" / "cut.bundle"),
        ]  # fmt: skip
        (tmp_path / "out").mkdir()
        environment = {**os.environ, "CDM_EXPORT_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        calibration = tmp_path / "cache" / "calibration"
        for _ in range(1200):
            found = list(calibration.glob("*.json")) if calibration.exists() else []
            if found and len(json.loads(found[0].read_text())["trials"]) >= 3:
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert list((tmp_path / "out").iterdir()) == []
        known = len(json.loads(found[0].read_text())["trials"])
        assert known >= 3, "what was known stays known"
        again = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            goes_on = next((line for line in again.stderr if "calibration goes on" in line), "")
            told = goes_on + again.stderr.readline()  # the path may fold the line
            assert f"({known} trials known)" in re.sub(r"\s+", " ", told), told
            assert found[0].is_file() and len(list(calibration.glob("*.json"))) == 1
        finally:
            again.send_signal(signal.SIGINT)
            assert again.wait(60) == 130
