"""What the doctor and the builder know of NVIDIA machines, without one: the driver and the system are stand-ins."""

import pytest

from cdm_export.doctor import nvidia as doctor_nvidia
from cdm_export.doctor.nvidia import jetpack, nvidia_checks
from cdm_export.runtimes import nvidia, onnxruntime
from cdm_export.runtimes.errors import BackendUnavailable, DriverMissing
from cdm_export.tensorrt.memory import shortage
from parity_tests.engine_bundle import make_bundle

ORIN_NANO = nvidia.Gpu(name="Orin", compute_capability="8.7", integrated=True, memory=8 << 30, cuda="12.6")


def jetson(monkeypatch, *, release="36.4.3", available=4 << 30, python=None):
    replaced = {
        "find_gpu": lambda: ORIN_NANO,
        "driver_cuda": lambda: ORIN_NANO.cuda,
        "l4t_release": lambda: release,
        "jetson_module": lambda: "NVIDIA Jetson Orin Nano Developer Kit",
        "available_memory": lambda: (available, 8 << 30),
        "version_of": lambda name: python if name == "cuda-python" else None,
    }
    for name, stand_in in replaced.items():
        monkeypatch.setattr(doctor_nvidia, name, stand_in)
    return {finding.subject: finding for finding in nvidia_checks()}


def test_jetson_with_little_memory(monkeypatch):
    found = jetson(monkeypatch)
    assert found["Jetson"].status == "ok" and "Orin Nano" in found["Jetson"].detail
    assert "36.4.3 (JetPack 6.2)" in found["Jetson"].detail
    assert "CUDA 12.6; Orin (sm87" in found["CUDA driver"].detail
    assert found["memory to build"].status == "problem" and "add swap" in found["memory to build"].command
    assert jetson(monkeypatch, available=16 << 30)["memory to build"].status == "ok"


def test_jetpack_5_is_told_to_go(monkeypatch):
    found = jetson(monkeypatch, release="35.4.1")
    assert found["Jetson"].status == "problem" and "JetPack 6.2" in found["Jetson"].command


def test_cuda_python_of_another_major_looks_like_no_driver(monkeypatch):
    found = jetson(monkeypatch, python="13.0.1")
    assert found["CUDA driver"].status == "problem" and found["CUDA driver"].command == "pip install 'cuda-python<13'"


@pytest.mark.parametrize(
    ("release", "name"), [("35.6.0", "5.1"), ("36.4.0", "6.1"), ("36.4.4", "6.2"), ("39.2", "7.2"), ("41.0", "unknown")]
)
def test_jetpack_of_a_release(release, name):
    assert jetpack(release) == name


def test_driver_that_does_not_start(monkeypatch):
    def fails():
        raise BackendUnavailable("the NVIDIA driver is installed but does not start: cuInit gives error 999", "reboot")

    monkeypatch.setattr(doctor_nvidia, "driver_cuda", fails)
    found = {finding.subject: finding for finding in nvidia_checks()}
    assert found["CUDA driver"].status == "problem" and "999" in found["CUDA driver"].detail
    assert "memory to build" not in found


@pytest.mark.parametrize(("error", "status"), [(DriverMissing, "missing"), (BackendUnavailable, "problem")])
def test_what_kind_of_error_it_is_decides_not_its_words(monkeypatch, error, status):
    def fails():
        raise error("there is no NVIDIA driver, or whatever the sentence is today", "install it")

    monkeypatch.setattr(doctor_nvidia, "driver_cuda", fails)
    found = {finding.subject: finding for finding in nvidia_checks()}
    assert found["CUDA driver"].status == status


def test_a_machine_without_the_driver_says_so_by_its_error(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(nvidia.ctypes, "CDLL", absent)
    nvidia._driver.cache_clear()
    try:
        with pytest.raises(DriverMissing, match="there is no NVIDIA driver"):
            nvidia.driver_cuda()
    finally:
        nvidia._driver.cache_clear()


class FakeDriver:
    """libcuda, as far as we ask it."""

    def __init__(self, count=1, failing=None):
        self.count, self.failing = count, failing

    def __getattr__(self, name):
        def function(*arguments):
            if name == self.failing:
                return 100
            values = {"cuDeviceGetCount": self.count, "cuDriverGetVersion": 12060, "cuDeviceTotalMem_v2": 8 << 30}
            if name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 7, 18: 1}[arguments[1]]
            elif name == "cuDeviceGetName":
                arguments[0].value = b"Orin"
            elif name in values:
                arguments[0]._obj.value = values[name]
            return 0

        return function


@pytest.fixture
def driver(monkeypatch):
    def install(fake):
        monkeypatch.setattr(nvidia, "_driver", lambda: fake)
        nvidia.find_gpu.cache_clear()

    yield install
    nvidia.find_gpu.cache_clear()


def test_gpu_as_the_driver_tells_it(driver):
    driver(FakeDriver())
    assert nvidia.find_gpu() == ORIN_NANO and str(nvidia.find_gpu()) == "Orin (sm87, CUDA 12.6)"


def test_driver_without_a_gpu(driver):
    driver(FakeDriver(count=0))
    with pytest.raises(BackendUnavailable, match="shows no GPU"):
        nvidia.find_gpu()
    driver(FakeDriver(failing="cuDeviceGetName"))
    with pytest.raises(BackendUnavailable, match="cuDeviceGetName with error 100"):
        nvidia.find_gpu()


def test_warning_before_a_build_that_will_not_fit(tmp_path):
    artifact = make_bundle(tmp_path / "tiny.bundle").manifest.artifacts[0]
    large = artifact.model_copy(update={"files": (artifact.files[0].model_copy(update={"size": 1_330_000_000}),)})
    said = shortage(large, 1 << 30, 4 << 30)
    assert said is not None and "5.5 GiB" in said and "4.0 GiB are available" in said and "swap" in said
    assert shortage(large, 1 << 30, 16 << 30) is None and shortage(large, 1 << 30, 0) is None


class Session:
    """An ONNX Runtime session, as far as its providers go."""

    def __init__(self, providers, **nodes):
        self._providers, self._nodes = providers, nodes

    def get_providers(self):
        return self._providers

    def get_provider_graph_assignment_info(self):
        class Part:
            def __init__(self, name, count):
                self.ep_name, self.count = name, count

            def get_nodes(self):
                return [None] * self.count

        return [Part(name, count) for name, count in self._nodes.items()]


TRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"


def test_nodes_must_be_where_they_were_asked_to_be():
    onnxruntime.require_provider(Session([TRT, CUDA, CPU], **{TRT: 90, CUDA: 10}), TRT)
    onnxruntime.require_provider(Session([CUDA, CPU], **{CUDA: 100}), CUDA)
    with pytest.raises(BackendUnavailable, match="of 100 nodes, 1 on CPUExecutionProvider, 99 on CUDA"):
        onnxruntime.require_provider(Session([CUDA, CPU], **{CUDA: 99, CPU: 1}), CUDA)
    with pytest.raises(BackendUnavailable, match="does not run this graph"):
        onnxruntime.require_provider(Session([TRT, CUDA, CPU], **{TRT: 10, CUDA: 90}), TRT)
    with pytest.raises(BackendUnavailable, match="not running on the CPU in silence"):
        onnxruntime.require_provider(Session([CPU], **{CPU: 100}), TRT)


def test_provider_options(tmp_path, monkeypatch):
    graph = tmp_path / "fp16.onnx"
    graph.write_bytes(b"graph")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    (name, options), (second, cuda) = onnxruntime._with_options(TRT, graph, "fp16")
    assert (name, second) == (TRT, CUDA) and cuda == {"use_tf32": "0"}
    assert options["trt_engine_cache_enable"] == "1" and not any("fp16" in key for key in options)
    import os

    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert onnxruntime._with_options(CUDA, graph, "fp32") == [(CUDA, {"use_tf32": "0"})]


def test_assignment_is_read_from_the_library(tmp_path):
    import onnxruntime as library

    make_bundle(tmp_path / "tiny.bundle")
    options = library.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = library.InferenceSession(tmp_path / "tiny.bundle" / "onnx" / "fp32.onnx", options, providers=[CPU])
    assigned = onnxruntime.nodes_by_provider(session)
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime does not tell")
    assert list(assigned) == [CPU] and assigned[CPU] >= 5
