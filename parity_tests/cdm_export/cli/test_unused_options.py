"""Options that do nothing for a model are refused; the range of a metric head can be given; sizes are bounded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cdm_export.cli import run_command
from cdm_export.export.bundle import export_bundle
from cdm_export.export.request import ExportRequest
from cdm_export.predict.unused_options import check_depth_scale, check_far, check_max_depth
from cdm_export.progress import Silent
from cdm_export.reference_model.registry import get_variant, with_head_range
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import LARGEST_SIDE, ModelContract, Size, Sizing
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.processing.size import network_size
from parity_tests.conftest import CAMERA, cli
from parity_tests.frame_files import refusal

SIZING = Sizing(rule="lower_bound", multiple=14)

METRIC, RELATIVE = "depth-anything-v2-metric-indoor-vits", "depth-anything-v2-vits"


def contract_of(name: str) -> ModelContract:
    return get_variant(name).contract(name, CAMERA, 70)


class TestRefusals:
    def test_max_depth_says_what_it_means_and_names_the_range_of_the_head(self) -> None:
        message = refusal(lambda: check_max_depth(contract_of(METRIC), 10, reads_depth=False))
        assert "reads no sensor depth" in message and "--head-range 10" in message
        message = refusal(lambda: check_max_depth(contract_of(RELATIVE), 10, reads_depth=False))
        assert "--head-range" not in message and "Leave it out" in message
        check_max_depth(contract_of("cdm-vits"), 10, reads_depth=True)
        check_max_depth(contract_of(RELATIVE), 10, reads_depth=True)
        check_max_depth(contract_of(METRIC), None, reads_depth=False)

    def test_far_and_depth_scale(self) -> None:
        assert "gives no meters" in refusal(lambda: check_far(contract_of(RELATIVE), 9))
        check_far(contract_of(RELATIVE), 9, scaled_by_sensor=True)
        check_far(contract_of(METRIC), 9)
        assert "--depth-scale 5000" in refusal(lambda: check_depth_scale(contract_of(METRIC), 5000, has_depth=False))
        check_depth_scale(contract_of(METRIC), 5000, has_depth=True)
        check_depth_scale(contract_of(METRIC), None, has_depth=False)

    @pytest.mark.parametrize("option", ["--max-depth", "--depth-scale", "--far", "--head-range"])
    def test_export_refuses_before_any_work(
        self, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, option: str
    ) -> None:
        monkeypatch.setattr("cdm_export.export.bundle.prepare_frames", lambda *given: pytest.fail("work had begun"))
        arguments = ["--random-weights", "1", "--model", RELATIVE, "--camera", "160x120", "--frames", "synthetic:1"]
        code = run_command(["export", *arguments, option, "7", "-o", str(tmp_path / "o.bundle"), "-q"])
        assert code == 2 and f"{option} 7" in capsys.readouterr().err and not list(tmp_path.iterdir())


class TestHeadRange:
    def test_it_is_in_the_network_the_name_and_the_contract(self) -> None:
        variant = with_head_range(get_variant(METRIC), 10)
        contract = variant.contract(variant.name, CAMERA, 70)
        assert variant.name == f"{METRIC}@10m" and contract.model == variant.name
        assert contract.outputs[0].unit == "m, 0..10" and contract.far == 10
        assert get_variant(contract.model).name == variant.name
        network: Any = get_variant(contract.model).build()
        assert network.max_depth == 10
        assert "20 m" not in variant.summary and variant.precision.islands[0].reason.endswith("at 10 m")

    def test_the_name_says_the_range_to_the_last_digit_that_counts(self) -> None:
        variant = with_head_range(get_variant(METRIC), 12.34567891)
        network: Any = variant.build()
        assert variant.name == f"{METRIC}@12.3457m" and network.max_depth == 12.3457

    @pytest.mark.parametrize("name", ["cdm-vits@10m", f"{METRIC}@0m", f"{METRIC}@nanm", f"{METRIC}@1e9m", f"{METRIC}@m",
                                      f"{METRIC}@10m@20m", "nothing@10m"])  # fmt: skip
    def test_names_that_are_none(self, name: str) -> None:
        with pytest.raises(InputError):
            get_variant(name)

    def test_a_bundle_of_it(self, tmp_path: Path) -> None:
        """Half the range, half the depth: for the same weights the sigmoid is the same."""
        depths = {}
        for meters in (20.0, 10.0):
            bundle, parities = export_bundle(
                ExportRequest(
                    tmp_path / f"{meters:g}.bundle", CAMERA, random_weights=1, model=METRIC, input_size=70,
                    frames="synthetic:1", head_range=meters, low_precisions=(),
                ),
                Silent(),
            )  # fmt: skip
            assert all(parity.verdict.passed for parity in parities)
            assert bundle.manifest.contract.far == meters
            with np.load(bundle.path / "golden" / "000.npz") as golden:
                depths[meters] = golden["raw_output"]
        assert np.allclose(depths[20.0], 2 * depths[10.0], rtol=1e-5)
        done = cli("verify", tmp_path / "10.bundle", "--backend", "onnxruntime", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["passed"], done.stderr
        assert Bundle.open(tmp_path / "10.bundle").manifest.contract.model == f"{METRIC}@10m"


class TestSizes:
    @pytest.mark.parametrize(
        "text",
        ["99999x99999", "16385x10", "0x10", "\u0663\u0662\u0660x\u0662\u0664\u0660", "640x480x3", "", "-1x5", "²x5"],
    )
    def test_what_is_no_camera(self, text: str) -> None:
        message = refusal(lambda: Size.parse(text))
        assert "WIDTHxHEIGHT" in message and "16384x16384" in message
        assert Size.parse("16384x1") == Size(16384, 1)

    @pytest.mark.parametrize(
        ("camera", "input_size"), [(Size(1, 480), 518), (Size(99, 10000), 518), (Size(9, 900), 4096)]
    )
    def test_too_narrow_for_the_network(self, camera: Size, input_size: int) -> None:
        assert "no side above 16384" in refusal(lambda: network_size(camera, input_size, SIZING))
        network_size(Size(640, 480), 4096, SIZING)

    @pytest.mark.parametrize("camera", ["1x480", "99999x99999", "16385x16385"])
    def test_export_refuses(self, tmp_path: Path, capsys: Any, camera: str) -> None:
        arguments = ["export", "--model", "cdm-vitt", "--camera", camera, "--frames", "synthetic:1"]
        assert run_command([*arguments, "-o", str(tmp_path / "o.bundle"), "-q"]) == 2
        assert "16384" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "change",
        [
            {"camera": (0, 5)}, {"camera": (5, LARGEST_SIDE + 1)}, {"network": (99999, 99999)}, {"input_size": 10**9},
            {"max_depth": float("inf")}, {"far": float("nan")}, {"far": float("inf")},
        ],
    )  # fmt: skip
    def test_a_manifest_with_such_a_size_is_refused_by_its_schema(self, contract: ModelContract, change: Any) -> None:
        with pytest.raises(ValidationError):
            ModelContract.model_validate({**contract.model_dump(), **change})

    def test_tensors_too(self, contract: ModelContract) -> None:
        for shape in ((1, 3, 0, 4), (1, 3, 99999, 4), (1, 3, -1, 4)):
            dumped = contract.model_dump()
            dumped["inputs"][0]["shape"] = shape
            with pytest.raises(ValidationError):
                ModelContract.model_validate(dumped)
