"""Every name of TensorRT that our code uses exists in every release it claims; and what the builder is told.

``tensorrt_api_surface.json`` was read from the binding wheels themselves.
"""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from cdm_export.runtimes import tensorrt_api as api
from cdm_export.runtimes.errors import BackendUnavailable, EngineBuildError
from cdm_export.tensorrt.builder import BuildPlan, configure
from parity_tests.engine_bundle import TYPING
from parity_tests.places import DATA, ROOT

SOURCES = ("runtimes/tensorrt.py", "runtimes/tensorrt_api.py", "cdm_export/tensorrt/builder.py",
           "cdm_export/tensorrt/worker.py")  # fmt: skip
SURFACE = json.loads((DATA / "tensorrt_api_surface.json").read_text())
VERSIONS = SURFACE["versions"]
SUPPORTED = [version for version in VERSIONS if not version.startswith("8")]
CLASSES = {
    "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "layer": "ILayer",
    "tensor": "ITensor", "parser": "OnnxParser", "error": "ParserError", "engine": "ICudaEngine",
    "context": "IExecutionContext", "_context": "IExecutionContext", "inspector": "EngineInspector",
    "runtime": "Runtime", "_runtime": "Runtime", "cache": "ITimingCache",
}  # fmt: skip
"""What our variables of these names hold, in the files above."""
PYTHON = {"__version__", "__init__", "message", "strerror"}
LEGACY = {"BuilderFlag.FP16", "BuilderFlag.OBEY_PRECISION_CONSTRAINTS", "ILayer.precision", "ILayer.set_output_type"}
"""Used only where there are no strong types, which is 8.6."""
GUARDED = {"ICudaEngine.device_memory_size": "11.4.0.106", "IProgressMonitor": "8.6.1"}
"""Used only where the release has them; the one that has not."""


def versions_with(name: str) -> set[str]:
    owner, _, member = name.partition(".")
    if not member:
        return {version for version in VERSIONS if any(_digit(mask, version) for mask in SURFACE["members"][owner])}
    masks = [mask for mask, names in SURFACE["members"][owner].items() if member in names.split()]
    return {version for version in VERSIONS if any(_digit(mask, version) for mask in masks)}


def _digit(mask: str, version: str) -> bool:
    return mask[VERSIONS.index(version)] == "1"


def used_names() -> set[str]:
    """``Class``, ``Class.member`` for every use of the library in our code."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if not isinstance(node, ast.Attribute) or node.attr in PYTHON:
                continue
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "trt":
                found.add(node.attr)
            elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "trt":
                found.add(f"{owner.attr}.{node.attr}")
            else:
                held = owner.attr if isinstance(owner, ast.Attribute) and owner.attr.startswith("_") else None
                name = owner.id if isinstance(owner, ast.Name) else held
                if name in CLASSES:
                    found.add(f"{CLASSES[name]}.{node.attr}")
    return found


def test_the_names_are_found():
    names = used_names()
    assert {"Builder", "BuilderFlag.TF32", "IBuilderConfig.progress_monitor", "IExecutionContext.execute_async_v3",
            "ParserError.desc", "ICudaEngine.get_tensor_name"} <= names  # fmt: skip
    assert len(names) > 45


@pytest.mark.parametrize("name", sorted(used_names()))
def test_every_name_exists(name):
    if name in LEGACY:
        assert "8.6.1" in versions_with(name)
    elif name in GUARDED:
        assert versions_with(name) == set(VERSIONS) - {GUARDED[name]}
    else:
        assert versions_with(name) >= set(SUPPORTED), sorted(set(SUPPORTED) - versions_with(name))


def test_what_is_asked_for_by_name_exists_somewhere():
    flags = ("NetworkDefinitionCreationFlag.STRONGLY_TYPED", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH")
    for name in (*flags, "ICudaEngine.device_memory_size_v2", "ParserError.node_name", "ParserError.node_operator"):
        assert versions_with(name), name


@pytest.mark.parametrize("version", VERSIONS)
def test_creation_flags_of_every_release(version):
    members = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    names = [name for name in members if version in versions_with(f"NetworkDefinitionCreationFlag.{name}")]
    flags = SimpleNamespace(**{name: members[name] for name in names})
    trt = SimpleNamespace(NetworkDefinitionCreationFlag=flags)
    assert api.creation_flags(trt) == sum(1 << members[name] for name in names)
    assert api.is_strongly_typed(trt) == (not version.startswith("8"))


class Recorder:
    """Writes down what a configuration is told."""

    def __init__(self) -> None:
        object.__setattr__(self, "told", [])

    def __setattr__(self, name, value):
        self.told.append((name, value))

    def __getattr__(self, name):
        return lambda *arguments: self.told.append((name, *arguments))


def fake_module(strong: bool) -> SimpleNamespace:
    flags = SimpleNamespace(**({"STRONGLY_TYPED": 1} if strong else {"EXPLICIT_BATCH": 0}))
    return SimpleNamespace(
        __version__="10.3.0" if strong else "8.6.2",
        NetworkDefinitionCreationFlag=flags,
        BuilderFlag=SimpleNamespace(TF32="TF32", FP16="FP16", OBEY_PRECISION_CONSTRAINTS="OBEY"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"),
        DataType=SimpleNamespace(FLOAT="FLOAT"),
    )


def plan(precision, workspace=1 << 30):
    return BuildPlan(Path("x.onnx"), precision, TYPING, workspace, 3, None)


class Layer:
    """One of 8.6's, whose type can be set."""

    num_outputs = 1

    def __init__(self, name, kind="FLOAT"):
        self.name, self.kind, self.precision, self.output = name, kind, None, None

    def get_output(self, index):
        return SimpleNamespace(dtype=self.kind)

    def set_output_type(self, index, kind):
        self.output = kind


NO_LAYERS = SimpleNamespace(num_layers=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-attn32", "bf16", "tf32"])
def test_strong_types_and_no_precision_flag(precision):
    config = Recorder()
    assert configure(fake_module(strong=True), config, NO_LAYERS, plan(precision))
    assert config.told == [
        ("set_flag" if precision == "tf32" else "clear_flag", "TF32"),
        ("set_memory_pool_limit", "WORKSPACE", 1 << 30),
        ("builder_optimization_level", 3),
        ("profiling_verbosity", "DETAILED"),
    ]


def test_without_a_limit_the_library_has_its_own():
    config = Recorder()
    configure(fake_module(strong=True), config, NO_LAYERS, plan("fp16", workspace=0))
    assert not any(name == "set_memory_pool_limit" for name, *_ in config.told)


def test_legacy_half_keeps_islands_in_float32():
    layers = [Layer("head.conv/Conv"), Layer("blocks.0.attn.core/MatMul"), Layer("head.conv/Shape", "INT64")]
    network = SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])
    config = Recorder()
    assert not configure(fake_module(strong=False), config, network, plan("fp16"))
    assert ("set_flag", "FP16") in config.told and ("set_flag", "OBEY") in config.told
    assert ("clear_flag", "TF32") in config.told
    assert [(layer.precision, layer.output) for layer in layers] == [("FLOAT", "FLOAT"), (None, None), (None, None)]


def test_legacy_builds_what_it_can_be_told():
    for precision in ("fp16-attn32", "bf16"):
        with pytest.raises(EngineBuildError, match=r"8\.6\.2 has no strong types"):
            configure(fake_module(strong=False), Recorder(), NO_LAYERS, plan(precision))
    config = Recorder()
    configure(fake_module(strong=False), config, NO_LAYERS, plan("fp32"))
    assert not any(told[0] == "set_flag" for told in config.told)


def test_releases_before_8_6_are_refused_with_the_reason():
    with pytest.raises(BackendUnavailable, match=r"8\.5\.2\.2 is not supported: its parser has no LayerNormalization"):
        api.require_supported(SimpleNamespace(__version__="8.5.2.2"), "tensorrt")
    api.require_supported(SimpleNamespace(__version__="8.6.1"), "tensorrt")
    api.require_supported(SimpleNamespace(__version__="1.4.0"), "tensorrt-rtx")


def test_library_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"libnvinfer.so.10: cannot open.*\n.*--system-site-packages"):
        api.load_library("tensorrt")


def test_timing_cache_of_another_release_is_begun_anew(tmp_path):
    given = []
    config = SimpleNamespace(
        create_timing_cache=lambda data: given.append(data) or data, set_timing_cache=lambda cache, ignore: cache == b""
    )
    stored = tmp_path / "cache"
    stored.write_bytes(b"old")
    assert api.use_timing_cache(config, stored) == b"" and given == [b"old", b""]
    assert api.use_timing_cache(config, None) is None


def test_log_keeps_what_went_wrong_and_not_for_ever():
    log = api.Log()
    assert log.said() == "it gave no reason"
    for index in range(1000):
        log.take("ERROR", f"fault {index}")
        log.take("WARNING", "careful")
    assert "fault 999" in log.said() and len(log.errors) < 100
